//! What rings say to each other.

use bytes::Bytes;
use mutualstore_dht::ring::{MAX_CONTACTS, MAX_WITHOUT, Request, Response};
use mutualstore_dht::{Contact, contact::MAX_VIRTUAL_NODES};
use mutualstore_proto::wire;

use super::Malformed;
use super::contact::{contact, hearsay, id, peer, wire_contact, wire_id, wire_peer};
use super::signed::Verifier;

/// Beyond so many forged contacts a message is no mistake, and reading on costs more than it tells.
const MAX_FORGED: usize = 8;

fn required(message: Option<wire::Contact>, verifier: &Verifier) -> Result<Contact, Malformed> {
    contact(&message.ok_or(Malformed("a contact is missing"))?, verifier)
}

/// Those of the contacts that their peers signed.
fn contacts(message: wire::Contacts, verifier: &Verifier) -> Result<Vec<Contact>, Malformed> {
    if message.contacts.len() > MAX_CONTACTS {
        return Err(Malformed("too many contacts"));
    }
    let mut signed = Vec::with_capacity(message.contacts.len());
    let mut forged = 0;
    for contact in message.contacts {
        match hearsay(&contact, verifier)? {
            Some(contact) => signed.push(contact),
            None if forged < MAX_FORGED => forged += 1,
            None => return Err(Malformed("many contacts that their peers did not sign")),
        }
    }
    Ok(signed)
}

fn wire_contacts(contacts: &[Contact]) -> wire::Contacts {
    wire::Contacts {
        contacts: contacts.iter().map(wire_contact).collect(),
    }
}

/// A question as it travels.
pub(super) fn wire_request(request: &Request) -> wire::RingRequest {
    use wire::ring_request::Kind;
    let kind = match request {
        Request::Ping { held } => Kind::Ping(wire::Ping {
            held: held.as_ref().map(wire_contact),
        }),
        Request::Neighbours {
            contact,
            member,
            of,
            digest,
        } => Kind::Neighbours(wire::Neighbours {
            contact: Some(wire_contact(contact)),
            member: *member,
            of: of.iter().map(wire_id).collect::<Vec<Bytes>>(),
            digest: *digest,
        }),
        Request::Next {
            target,
            count,
            without,
        } => Kind::Next(wire::Next {
            target: wire_id(target),
            count: u32::from(*count),
            without: without.iter().map(wire_peer).collect(),
        }),
        Request::Leave { contact } => Kind::Leave(wire_contact(contact)),
    };
    wire::RingRequest { kind: Some(kind) }
}

/// Validates a question.
pub(super) fn request(message: wire::RingRequest, verifier: &Verifier) -> Result<Request, Malformed> {
    use wire::ring_request::Kind;
    Ok(
        match message.kind.ok_or(Malformed("a ring request of no known kind"))? {
            Kind::Ping(wire::Ping { held }) => Request::Ping {
                held: held.map(|held| contact(&held, verifier)).transpose()?,
            },
            Kind::Neighbours(m) if m.of.len() > usize::from(MAX_VIRTUAL_NODES) => {
                return Err(Malformed("more points than a peer has virtual nodes"));
            }
            Kind::Neighbours(m) => Request::Neighbours {
                contact: required(m.contact, verifier)?,
                member: m.member,
                of: m.of.iter().map(id).collect::<Result<_, _>>()?,
                digest: m.digest,
            },
            Kind::Next(m) if m.without.len() > MAX_WITHOUT => {
                return Err(Malformed("too many peers to do without"));
            }
            Kind::Next(m) => Request::Next {
                target: id(&m.target)?,
                count: u16::try_from(m.count).map_err(|_| Malformed("too many successors asked for"))?,
                without: m.without.iter().map(peer).collect::<Result<_, _>>()?,
            },
            Kind::Leave(m) => Request::Leave {
                contact: contact(&m, verifier)?,
            },
        },
    )
}

/// An answer as it travels.
pub(super) fn wire_response(response: &Response) -> wire::RingResponse {
    use wire::ring_response::Kind;
    let kind = match response {
        Response::Pong { contact, member } => Kind::Pong(wire::Pong {
            contact: Some(wire_contact(contact)),
            member: *member,
        }),
        Response::Same => Kind::Same(wire::Same {}),
        Response::Contacts(contacts) => Kind::Contacts(wire_contacts(contacts)),
        Response::Found(contacts) => Kind::Found(wire_contacts(contacts)),
        Response::Closer(contacts) => Kind::Closer(wire_contacts(contacts)),
        Response::Busy => Kind::Busy(wire::Busy {}),
        Response::Ack => Kind::Ack(wire::Ack {}),
    };
    wire::RingResponse { kind: Some(kind) }
}

/// Validates an answer.
pub(super) fn response(message: wire::RingResponse, verifier: &Verifier) -> Result<Response, Malformed> {
    use wire::ring_response::Kind;
    Ok(
        match message.kind.ok_or(Malformed("a ring answer of no known kind"))? {
            Kind::Pong(m) => Response::Pong {
                contact: required(m.contact, verifier)?,
                member: m.member,
            },
            Kind::Same(wire::Same {}) => Response::Same,
            Kind::Contacts(m) => Response::Contacts(contacts(m, verifier)?),
            Kind::Found(m) => Response::Found(contacts(m, verifier)?),
            Kind::Closer(m) => Response::Closer(contacts(m, verifier)?),
            Kind::Busy(wire::Busy {}) => Response::Busy,
            Kind::Ack(wire::Ack {}) => Response::Ack,
        },
    )
}

#[cfg(test)]
mod tests;
