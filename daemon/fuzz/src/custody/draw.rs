//! What an input draws: peers, stripes, requests and answers, within custody's bounds and beyond.

use arbitrary::{Result, Unstructured};
use mutualstore_dht::custody::{
    Entry, Holds, Item, Listing, Pin, Question, Report, Reported, Request, Response, Shape, Status, TrimOrder,
};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Id, Peer};

use super::PEERS;
use crate::ring::peer;

/// Few stripes, so that what is said of them meets.
pub(super) fn stripe(input: &mut Unstructured) -> Result<Id> {
    Ok(Id::new([input.arbitrary::<u8>()? & 7; 32]))
}

pub(super) fn any_peer(input: &mut Unstructured) -> Result<Peer> {
    Ok(peer(input.int_in_range(0..=PEERS - 1)?))
}

pub(super) fn other_peer(input: &mut Unstructured) -> Result<Peer> {
    Ok(peer(input.int_in_range(1..=PEERS - 1)?))
}

pub(super) fn item(input: &mut Unstructured) -> Result<Item> {
    Ok(match input.int_in_range(0..=9)? {
        8 => Item::Locator,
        9 => Item::Tombstone,
        index => Item::Shard(index),
    })
}

/// The shape of a stripe, the same whenever it is named.
pub(super) fn shape(stripe: Id) -> Shape {
    let [first, ..] = *stripe.as_bytes();
    let placement = match first % 4 {
        0 | 1 => Placement::Successors,
        2 => Placement::Random,
        _ => Placement::Copysets { anchor: stripe },
    };
    Shape {
        k: 1 + first % 2,
        n: 3,
        shard_len: 100,
        placement,
    }
}

pub(super) fn many<T>(
    input: &mut Unstructured,
    one: impl Fn(&mut Unstructured) -> Result<T>,
) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=4)?;
    (0..count).map(|_| one(input)).collect()
}

fn shard_at(input: &mut Unstructured) -> Result<(u8, Peer)> {
    Ok((input.int_in_range(0..=3)?, any_peer(input)?))
}

fn listing(input: &mut Unstructured) -> Result<Listing> {
    let stripe = stripe(input)?;
    let [.., bucket] = *stripe.as_bytes();
    let mut items = many(input, item)?;
    items.sort_unstable();
    items.dedup();
    let shape = shape(stripe);
    let committed = input.arbitrary()?;
    let entry = |item| Entry {
        stripe,
        item,
        shape,
        committed,
    };
    Ok(Listing {
        bucket,
        from: stripe,
        to: stripe,
        entries: items.into_iter().map(entry).collect(),
    })
}

pub(super) fn report(input: &mut Unstructured) -> Result<Report> {
    let mut listings = many(input, listing)?;
    // The daemon refuses others.
    listings.retain(Listing::is_valid);
    Ok(Report {
        instance: input.int_in_range(0..=2)?,
        sequence: input.arbitrary::<u8>()?.into(),
        total: input.arbitrary::<u16>()?.into(),
        listings,
    })
}

pub(super) fn request(input: &mut Unstructured) -> Result<Request> {
    Ok(match input.int_in_range(0..=9)? {
        0 => Request::Report(report(input)?),
        1 => Request::Solicit,
        2 => Request::Commit {
            stripes: many(input, stripe)?,
        },
        3 => Request::Trim {
            orders: many(input, |input| {
                Ok(TrimOrder {
                    stripe: stripe(input)?,
                    item: item(input)?,
                    keep: any_peer(input)?,
                    others: many(input, shard_at)?,
                })
            })?,
        },
        4 => Request::Confirm {
            questions: many(input, |input| {
                Ok(Question {
                    stripe: stripe(input)?,
                    item: item(input)?,
                    trim: Some(input.arbitrary::<u8>()?.into()).filter(|trim| *trim != 0),
                })
            })?,
        },
        5 => Request::Status {
            stripes: many(input, stripe)?,
        },
        6 => Request::Audit {
            stripes: many(input, stripe)?,
        },
        7 => Request::Held {
            stripes: many(input, stripe)?,
        },
        8 => Request::Release {
            pins: many(input, |input| {
                Ok(Pin {
                    stripe: stripe(input)?,
                    item: item(input)?,
                    trim: input.arbitrary::<u8>()?.into(),
                })
            })?,
        },
        _ => Request::Audited {
            totals: many(input, |input| Ok((stripe(input)?, input.arbitrary()?)))?,
        },
    })
}

/// An answer of the kind that was asked for, or one of another kind.
pub(super) fn response(input: &mut Unstructured, asked: &Request) -> Result<Response> {
    let yes = input.int_in_range(0..=7)?;
    Ok(match asked {
        _ if yes == 7 => Response::Taken,
        Request::Report(_) => Response::Reported(Reported {
            differs: if input.arbitrary()? {
                Some(vec![(input.arbitrary()?, 1)])
            } else {
                None
            },
            elsewhere: many(input, |input| Ok((stripe(input)?, any_peer(input)?)))?,
        }),
        Request::Confirm { questions } => Response::Confirmed(vec![yes > 0; questions.len()]),
        Request::Status { stripes } => {
            let all = [Status::None, Status::Pending, Status::Committed];
            Response::Statuses(vec![*input.choose(&all)?; stripes.len()])
        }
        Request::Held { stripes } => {
            let one = |input: &mut Unstructured| {
                let mut items = many(input, item)?;
                items.sort_unstable();
                items.dedup();
                Ok(Holds {
                    items,
                    under_repair: input.arbitrary()?,
                    reported: many(input, any_peer)?,
                })
            };
            Response::Held(stripes.iter().map(|_| one(input)).collect::<Result<_>>()?)
        }
        Request::Solicit
        | Request::Commit { .. }
        | Request::Trim { .. }
        | Request::Audit { .. }
        | Request::Release { .. }
        | Request::Audited { .. } => Response::Taken,
    })
}
