//! What custody says to custody on another peer.

use bytes::Bytes;
use mutualstore_dht::custody::{
    BUCKETS, Entry, Holds, Item, Listing, MAX_ASKED, MAX_ENTRIES, Pin, Question, RECORDS, Report, Reported,
    Request, Response, Shape, Status, TrimOrder,
};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Id, Peer};
use mutualstore_proto::wire;

use super::Malformed;
use super::contact::{id, index, peer, wire_id, wire_peer};

const TOO_MANY: Malformed = Malformed("a custody message beyond its limits");

fn at_most(len: usize, limit: usize) -> Result<(), Malformed> {
    if len > limit { Err(TOO_MANY) } else { Ok(()) }
}

fn stripes(list: &wire::StripeList) -> Result<Vec<Id>, Malformed> {
    at_most(list.stripes.len(), MAX_ENTRIES)?;
    list.stripes.iter().map(id).collect()
}

fn wire_stripes(stripes: &[Id]) -> wire::StripeList {
    wire::StripeList {
        stripes: stripes.iter().map(wire_id).collect::<Vec<Bytes>>(),
    }
}

fn entry(message: &wire::ListedShard) -> Result<Entry, Malformed> {
    Ok(Entry {
        stripe: id(&message.stripe)?,
        item: item(message.index, message.digest)?,
        shape: Shape {
            k: index(message.k)?,
            n: index(message.n)?,
            shard_len: message.shard_len,
            placement: placement(message)?,
        },
        committed: message.committed,
    })
}

/// The policy's number is its header byte without a group, which stands beside it.
fn placement(message: &wire::ListedShard) -> Result<Placement, Malformed> {
    let anchor = || id(&message.anchor);
    match message.policy {
        0 => Ok(Placement::Successors),
        1 => Ok(Placement::Random),
        2 => Ok(Placement::Copysets { anchor: anchor()? }),
        3 => Ok(Placement::Buddies {
            group: index(message.group)?,
            anchor: anchor()?,
        }),
        _ => Err(Malformed("a placement policy of no known kind")),
    }
}

/// Number, group and anchor.
fn wire_placement(placement: Placement) -> (u32, u32, Bytes) {
    match placement {
        Placement::Successors => (0, 0, Bytes::new()),
        Placement::Random => (1, 0, Bytes::new()),
        Placement::Copysets { anchor } => (2, 0, wire_id(&anchor)),
        Placement::Buddies { group, anchor } => (3, u32::from(group), wire_id(&anchor)),
    }
}

fn wire_entry(entry: &Entry) -> wire::ListedShard {
    let (policy, group, anchor) = wire_placement(entry.shape.placement);
    wire::ListedShard {
        stripe: wire_id(&entry.stripe),
        index: wire_item(entry.item),
        k: u32::from(entry.shape.k),
        n: u32::from(entry.shape.n),
        shard_len: entry.shape.shard_len,
        committed: entry.committed,
        policy,
        group,
        anchor,
        digest: entry.item.records().unwrap_or_default(),
    }
}

fn listing(message: &wire::Listing) -> Result<Listing, Malformed> {
    let listing = Listing {
        bucket: index(message.bucket)?,
        from: id(&message.from)?,
        to: id(&message.to)?,
        entries: message.entries.iter().map(entry).collect::<Result<_, _>>()?,
    };
    if listing.is_valid() {
        Ok(listing)
    } else {
        Err(Malformed("a listing out of order or out of its range"))
    }
}

fn wire_listing(listing: &Listing) -> wire::Listing {
    wire::Listing {
        bucket: u32::from(listing.bucket),
        from: wire_id(&listing.from),
        to: wire_id(&listing.to),
        entries: listing.entries.iter().map(wire_entry).collect(),
    }
}

fn report(message: &wire::Report) -> Result<Report, Malformed> {
    at_most(message.listings.len(), MAX_ENTRIES)?;
    at_most(
        message.listings.iter().map(|listing| listing.entries.len()).sum(),
        MAX_ENTRIES,
    )?;
    Ok(Report {
        instance: message.instance,
        sequence: message.sequence,
        total: message.total,
        listings: message.listings.iter().map(listing).collect::<Result<_, _>>()?,
    })
}

/// What a byte of an index stands for: a shard, the locator, the tombstone, or records with this digest.
fn item(number: u32, digest: u64) -> Result<Item, Malformed> {
    index(number).map(|index| of_byte(index, digest))
}

fn of_byte(byte: u8, digest: u64) -> Item {
    if byte == RECORDS {
        Item::of_records(digest)
    } else {
        Item::from(byte)
    }
}

fn wire_item(item: Item) -> u32 {
    u32::from(u8::from(item))
}

fn shard_at(message: &wire::ShardAt) -> Result<(u8, Peer), Malformed> {
    Ok((index(message.index)?, peer(&message.peer)?))
}

fn order(message: &wire::TrimOrder) -> Result<TrimOrder, Malformed> {
    at_most(message.others.len(), 256)?;
    Ok(TrimOrder {
        stripe: id(&message.stripe)?,
        item: item(message.index, 0)?,
        keep: peer(&message.keep)?,
        others: message.others.iter().map(shard_at).collect::<Result<_, _>>()?,
    })
}

fn wire_order(order: &TrimOrder) -> wire::TrimOrder {
    let at = |(index, peer): &(u8, Peer)| wire::ShardAt {
        index: u32::from(*index),
        peer: wire_peer(peer),
    };
    wire::TrimOrder {
        stripe: wire_id(&order.stripe),
        index: wire_item(order.item),
        keep: wire_peer(&order.keep),
        others: order.others.iter().map(at).collect(),
    }
}

/// A question as it travels.
pub(super) fn wire_request(request: &Request) -> wire::CustodyRequest {
    use wire::custody_request::Kind;
    let ask = |question: &Question| wire::Question {
        stripe: wire_id(&question.stripe),
        index: wire_item(question.item),
        trim: question.trim.unwrap_or(0),
    };
    let pin = |pin: &Pin| wire::Pin {
        stripe: wire_id(&pin.stripe),
        index: wire_item(pin.item),
        trim: pin.trim,
    };
    let total = |(stripe, total): &(Id, u8)| wire::StripeTotal {
        stripe: wire_id(stripe),
        total: u32::from(*total),
    };
    let kind = match request {
        Request::Report(report) => Kind::Report(wire::Report {
            instance: report.instance,
            sequence: report.sequence,
            total: report.total,
            listings: report.listings.iter().map(wire_listing).collect(),
        }),
        Request::Solicit => Kind::Solicit(wire::Solicit {}),
        Request::Commit { stripes } => Kind::Commit(wire_stripes(stripes)),
        Request::Trim { orders } => Kind::Trim(wire::Trim {
            orders: orders.iter().map(wire_order).collect(),
        }),
        Request::Confirm { questions } => Kind::Confirm(wire::Confirm {
            questions: questions.iter().map(ask).collect(),
        }),
        Request::Status { stripes } => Kind::Status(wire_stripes(stripes)),
        Request::Audit { stripes } => Kind::Count(wire_stripes(stripes)),
        Request::Held { stripes } => Kind::Held(wire_stripes(stripes)),
        Request::Release { pins } => Kind::Release(wire::Release {
            pins: pins.iter().map(pin).collect(),
        }),
        Request::Audited { totals } => Kind::Counted(wire::Counted {
            totals: totals.iter().map(total).collect(),
        }),
    };
    wire::CustodyRequest { kind: Some(kind) }
}

/// Validates a question.
pub(super) fn request(message: wire::CustodyRequest) -> Result<Request, Malformed> {
    use wire::custody_request::Kind;
    Ok(
        match message
            .kind
            .ok_or(Malformed("a custody request of no known kind"))?
        {
            Kind::Report(m) => Request::Report(report(&m)?),
            Kind::Solicit(wire::Solicit {}) => Request::Solicit,
            Kind::Commit(m) => Request::Commit {
                stripes: stripes(&m)?,
            },
            Kind::Trim(m) => {
                at_most(m.orders.len(), MAX_ENTRIES)?;
                Request::Trim {
                    orders: m.orders.iter().map(order).collect::<Result<_, _>>()?,
                }
            }
            Kind::Confirm(m) => {
                at_most(m.questions.len(), MAX_ENTRIES)?;
                let ask = |m: &wire::Question| {
                    Ok(Question {
                        stripe: id(&m.stripe)?,
                        item: item(m.index, 0)?,
                        trim: (m.trim > 0).then_some(m.trim),
                    })
                };
                Request::Confirm {
                    questions: m.questions.iter().map(ask).collect::<Result<_, Malformed>>()?,
                }
            }
            Kind::Release(m) => {
                at_most(m.pins.len(), MAX_ENTRIES)?;
                Request::Release {
                    pins: m.pins.iter().map(pin).collect::<Result<_, _>>()?,
                }
            }
            Kind::Status(m) => Request::Status {
                stripes: stripes(&m)?,
            },
            Kind::Count(m) => Request::Audit {
                stripes: stripes(&m)?,
            },
            Kind::Held(m) => {
                at_most(m.stripes.len(), MAX_ASKED)?;
                Request::Held {
                    stripes: stripes(&m)?,
                }
            }
            Kind::Counted(m) => {
                at_most(m.totals.len(), MAX_ENTRIES)?;
                let total = |m: &wire::StripeTotal| Ok((id(&m.stripe)?, index(m.total)?));
                Request::Audited {
                    totals: m.totals.iter().map(total).collect::<Result<_, Malformed>>()?,
                }
            }
        },
    )
}

fn pin(m: &wire::Pin) -> Result<Pin, Malformed> {
    Ok(Pin {
        stripe: id(&m.stripe)?,
        item: item(m.index, 0)?,
        trim: m.trim,
    })
}

fn wire_reported(reported: &Reported) -> wire::Reported {
    let buckets = reported.differs.iter().flatten();
    let bucket = |(bucket, fingerprint): &(u8, u64)| wire::BucketFingerprint {
        bucket: u32::from(*bucket),
        fingerprint: *fingerprint,
    };
    let hint = |(stripe, home): &(Id, Peer)| wire::HomeHint {
        stripe: wire_id(stripe),
        home: wire_peer(home),
    };
    wire::Reported {
        differs: reported.differs.is_some(),
        buckets: buckets.map(bucket).collect(),
        elsewhere: reported.elsewhere.iter().map(hint).collect(),
    }
}

fn reported(message: &wire::Reported) -> Result<Reported, Malformed> {
    at_most(message.buckets.len(), BUCKETS)?;
    at_most(message.elsewhere.len(), MAX_ENTRIES)?;
    let bucket = |m: &wire::BucketFingerprint| Ok((index(m.bucket)?, m.fingerprint));
    let hint = |m: &wire::HomeHint| Ok((id(&m.stripe)?, peer(&m.home)?));
    let buckets = message
        .buckets
        .iter()
        .map(bucket)
        .collect::<Result<_, Malformed>>()?;
    Ok(Reported {
        differs: message.differs.then_some(buckets),
        elsewhere: message
            .elsewhere
            .iter()
            .map(hint)
            .collect::<Result<_, Malformed>>()?,
    })
}

fn holds(message: &wire::Holds) -> Result<Holds, Malformed> {
    if !message.indices.is_sorted_by(|a, b| a < b) {
        return Err(Malformed("indices out of order"));
    }
    Ok(Holds {
        items: message
            .indices
            .iter()
            .map(|byte| of_byte(*byte, message.digest))
            .collect(),
        under_repair: message.minded,
        reported: message.told.iter().map(peer).collect::<Result<_, Malformed>>()?,
    })
}

/// An answer as it travels.
pub(super) fn wire_response(response: &Response) -> wire::CustodyResponse {
    use wire::custody_response::Kind;
    let status = |status: &Status| {
        i32::from(match status {
            Status::None => wire::StripeStatus::None,
            Status::Pending => wire::StripeStatus::Pending,
            Status::Committed => wire::StripeStatus::Committed,
        })
    };
    let holds = |holds: &Holds| wire::Holds {
        indices: holds.items.iter().copied().map(u8::from).collect(),
        minded: holds.under_repair,
        told: holds.reported.iter().map(wire_peer).collect(),
        digest: holds
            .items
            .iter()
            .find_map(|item| item.records())
            .unwrap_or_default(),
    };
    let kind = match response {
        Response::Reported(reported) => Kind::Reported(wire_reported(reported)),
        Response::Taken => Kind::Taken(wire::Taken {}),
        Response::Confirmed(held) => Kind::Confirmed(wire::Confirmed { held: held.clone() }),
        Response::Statuses(statuses) => Kind::Statuses(wire::Statuses {
            statuses: statuses.iter().map(status).collect(),
        }),
        Response::Held(stripes) => Kind::Held(wire::Held {
            stripes: stripes.iter().map(holds).collect(),
        }),
    };
    wire::CustodyResponse { kind: Some(kind) }
}

/// Validates an answer.
pub(super) fn response(message: wire::CustodyResponse) -> Result<Response, Malformed> {
    use wire::custody_response::Kind;
    Ok(
        match message
            .kind
            .ok_or(Malformed("a custody answer of no known kind"))?
        {
            Kind::Reported(m) => Response::Reported(reported(&m)?),
            Kind::Taken(wire::Taken {}) => Response::Taken,
            Kind::Confirmed(m) => {
                at_most(m.held.len(), MAX_ENTRIES)?;
                Response::Confirmed(m.held)
            }
            Kind::Statuses(m) => {
                at_most(m.statuses.len(), MAX_ENTRIES)?;
                let status = |status| match status {
                    wire::StripeStatus::None => Status::None,
                    wire::StripeStatus::Pending => Status::Pending,
                    wire::StripeStatus::Committed => Status::Committed,
                };
                Response::Statuses(m.statuses().map(status).collect())
            }
            Kind::Held(m) => {
                at_most(m.stripes.len(), MAX_ASKED)?;
                Response::Held(m.stripes.iter().map(holds).collect::<Result<_, _>>()?)
            }
        },
    )
}

#[cfg(test)]
mod tests;
