//! The first messages on every connection.
//!
//! The dialer says [`Hello`], the listener answers with its own; the dialer sends its [`Proof`], the
//! listener answers with its own, which also says that the connection is accepted. Either side may send a
//! [`Refusal`] instead of its next message, and closes after it. The dialer proves first because it chose
//! whom to talk to: a listener that proved first would let any stranger test guesses of the secret.
//!
//! Each message travels as a `u32` length, big-endian, of at most [`MAX_MESSAGE`], and that many bytes of
//! protobuf. The proof itself, an HMAC over fixed-width fields, is the daemon's.

use bytes::Bytes;
use prost::Message;

use crate::wire;

/// What every hello begins with.
pub const MAGIC: &[u8] = b"mutualstore";
/// The protocol this build speaks. 2 signs contacts, which 1 neither sends nor reads, so the two do not talk.
pub const VERSION: u32 = 2;
/// Bytes of one encoded message at most.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Bytes of an encoded contact at most.
pub const MAX_CONTACT: usize = 15 * 1024;
/// Bytes of a refusal's text that are kept.
pub const MAX_TEXT: usize = 512;

/// What a connection carries, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Ring and custody requests, in both directions.
    Rpc,
    /// Shards, requested by the dialer only.
    Shards,
}

/// Who one side is and what it expects of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Protocol version the sender speaks; see [`Hello::speaks_with`].
    pub version: u32,
    /// The network; all zero when the sender has none yet and will adopt the listener's.
    pub network: [u8; 32],
    /// Drawn for this connection.
    pub nonce: [u8; 16],
    /// What the connection is to carry; the listener repeats it.
    pub class: Class,
    /// Drawn at each start of the daemon: tells a peer that restarted from two that share a key.
    pub instance: [u8; 16],
    /// Bytes of capacity per virtual node in this network; 0 when not known yet.
    pub unit: u64,
    /// Distinct peers in a successor list of this network; 0 when not known yet.
    pub r: u32,
}

impl Hello {
    /// Whether the sender and a build that speaks `version` have one in common.
    pub fn speaks_with(&self, version: u32) -> bool {
        self.version == version
    }
}

/// Proof that the sender knows the network's secret, and its contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// HMAC-SHA256 under the network's secret.
    pub mac: [u8; 32],
    /// The sender's contact, at most [`MAX_CONTACT`] bytes, not parsed here.
    pub contact: Bytes,
}

/// Why a connection is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// The other side does not speak this protocol at all.
    #[error("not a MutualStore peer")]
    NotMutualStore,
    /// No protocol version in common.
    #[error("incompatible protocol version")]
    Version,
    /// The sides belong to different networks.
    #[error("wrong network")]
    WrongNetwork,
    /// The proof of the network's secret failed.
    #[error("wrong network secret")]
    WrongSecret,
    /// Same network, but unit or r differ.
    #[error("network parameters differ")]
    ParametersDiffer,
    /// Another live process uses the same identity.
    #[error("another live daemon has the same identity")]
    DuplicateInstance,
    /// The refusing side is at a limit; a retry may help.
    #[error("too many connections")]
    TooManyConnections,
    /// The listener belongs to no network yet; a retry may help.
    #[error("not in a network yet")]
    NoNetwork,
}

impl Reason {
    /// Whether the two sides do not fit until somebody changes one of them.
    pub fn is_lasting(self) -> bool {
        match self {
            Self::Version
            | Self::WrongNetwork
            | Self::WrongSecret
            | Self::ParametersDiffer
            | Self::DuplicateInstance => true,
            Self::NotMutualStore | Self::TooManyConnections | Self::NoNetwork => false,
        }
    }
}

/// The connection is not wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people; at most [`MAX_TEXT`] bytes.
    pub text: String,
}

/// One message of the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloMessage {
    /// First message of each side.
    Hello(Hello),
    /// Second message of each side.
    Proof(Proof),
    /// Last message of a side that does not want the connection.
    Refusal(Refusal),
}

/// Bytes that are not a message of the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not protobuf, or without a body.
    #[error("not a hello message")]
    Malformed,
    /// The magic is another one.
    #[error("not a MutualStore hello")]
    Magic,
    /// A field has the wrong length or an unknown value.
    #[error("hello field `{0}` is out of bounds")]
    Field(&'static str),
}

impl HelloMessage {
    /// The protobuf form, without the length before it.
    pub fn encode(&self) -> Bytes {
        let body = match self {
            Self::Hello(hello) => wire::hello_message::Body::Hello(hello.to_wire()),
            Self::Proof(proof) => wire::hello_message::Body::Proof(wire::HelloProof {
                mac: Bytes::copy_from_slice(&proof.mac),
                contact: proof.contact.clone(),
            }),
            Self::Refusal(refusal) => wire::hello_message::Body::Refusal(wire::HelloRefusal {
                reason: reason_to_wire(refusal.reason).into(),
                text: shortened(&refusal.text),
            }),
        };
        wire::HelloMessage { body: Some(body) }.encode_to_vec().into()
    }

    /// Parses and checks every field.
    pub fn decode(bytes: Bytes) -> Result<Self, HelloError> {
        let message = wire::HelloMessage::decode(bytes).map_err(|_| HelloError::Malformed)?;
        match message.body.ok_or(HelloError::Malformed)? {
            wire::hello_message::Body::Hello(hello) => Hello::from_wire(&hello).map(Self::Hello),
            wire::hello_message::Body::Proof(proof) => {
                if proof.contact.len() > MAX_CONTACT {
                    return Err(HelloError::Field("contact"));
                }
                let mac = fixed(&proof.mac, "mac")?;
                let contact = proof.contact;
                Ok(Self::Proof(Proof { mac, contact }))
            }
            wire::hello_message::Body::Refusal(refusal) => Ok(Self::Refusal(Refusal {
                reason: reason_from_wire(refusal.reason())?,
                text: shortened(&refusal.text),
            })),
        }
    }
}

impl Hello {
    fn to_wire(&self) -> wire::Hello {
        let class = match self.class {
            Class::Rpc => wire::ConnectionClass::Rpc,
            Class::Shards => wire::ConnectionClass::Shards,
        };
        wire::Hello {
            magic: Bytes::from_static(MAGIC),
            version: self.version,
            network: Bytes::copy_from_slice(&self.network),
            nonce: Bytes::copy_from_slice(&self.nonce),
            class: class.into(),
            instance: Bytes::copy_from_slice(&self.instance),
            unit: self.unit,
            r: self.r,
        }
    }

    fn from_wire(hello: &wire::Hello) -> Result<Self, HelloError> {
        if hello.magic != MAGIC {
            return Err(HelloError::Magic);
        }
        let class = match hello.class() {
            wire::ConnectionClass::Rpc => Class::Rpc,
            wire::ConnectionClass::Shards => Class::Shards,
            wire::ConnectionClass::Unspecified => return Err(HelloError::Field("class")),
        };
        Ok(Self {
            version: hello.version,
            network: fixed(&hello.network, "network")?,
            nonce: fixed(&hello.nonce, "nonce")?,
            class,
            instance: fixed(&hello.instance, "instance")?,
            unit: hello.unit,
            r: hello.r,
        })
    }
}

fn fixed<const N: usize>(bytes: &Bytes, field: &'static str) -> Result<[u8; N], HelloError> {
    bytes.as_ref().try_into().map_err(|_| HelloError::Field(field))
}

fn shortened(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT))
        .unwrap_or_default()
        .to_owned()
}

fn reason_to_wire(reason: Reason) -> wire::RefusalReason {
    match reason {
        Reason::NotMutualStore => wire::RefusalReason::NotMutualstore,
        Reason::Version => wire::RefusalReason::Version,
        Reason::WrongNetwork => wire::RefusalReason::WrongNetwork,
        Reason::WrongSecret => wire::RefusalReason::WrongSecret,
        Reason::ParametersDiffer => wire::RefusalReason::ParametersDiffer,
        Reason::DuplicateInstance => wire::RefusalReason::DuplicateInstance,
        Reason::TooManyConnections => wire::RefusalReason::TooManyConnections,
        Reason::NoNetwork => wire::RefusalReason::NoNetwork,
    }
}

fn reason_from_wire(reason: wire::RefusalReason) -> Result<Reason, HelloError> {
    match reason {
        wire::RefusalReason::Unspecified => Err(HelloError::Field("reason")),
        wire::RefusalReason::NotMutualstore => Ok(Reason::NotMutualStore),
        wire::RefusalReason::Version => Ok(Reason::Version),
        wire::RefusalReason::WrongNetwork => Ok(Reason::WrongNetwork),
        wire::RefusalReason::WrongSecret => Ok(Reason::WrongSecret),
        wire::RefusalReason::ParametersDiffer => Ok(Reason::ParametersDiffer),
        wire::RefusalReason::DuplicateInstance => Ok(Reason::DuplicateInstance),
        wire::RefusalReason::TooManyConnections => Ok(Reason::TooManyConnections),
        wire::RefusalReason::NoNetwork => Ok(Reason::NoNetwork),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            network: [1; 32],
            nonce: [2; 16],
            class: Class::Shards,
            instance: [3; 16],
            unit: 1 << 40,
            r: 16,
        }
    }

    #[test]
    fn messages_survive_the_wire() {
        let messages = [
            HelloMessage::Hello(hello()),
            HelloMessage::Proof(Proof {
                mac: [4; 32],
                contact: Bytes::from_static(b"contact"),
            }),
            HelloMessage::Refusal(Refusal {
                reason: Reason::WrongNetwork,
                text: "another ring".to_owned(),
            }),
        ];
        for message in messages {
            assert_eq!(HelloMessage::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_field_is_checked() {
        let decode = |hello: wire::Hello| {
            let body = Some(wire::hello_message::Body::Hello(hello));
            HelloMessage::decode(wire::HelloMessage { body }.encode_to_vec().into())
        };
        let good = hello().to_wire();
        assert!(decode(good.clone()).is_ok());
        let short = Bytes::from_static(&[0; 15]);
        let bad = |change: &dyn Fn(&mut wire::Hello)| {
            let mut hello = good.clone();
            change(&mut hello);
            decode(hello)
        };
        assert_eq!(bad(&|h| h.magic = short.clone()), Err(HelloError::Magic));
        assert_eq!(bad(&|h| h.nonce = short.clone()), Err(HelloError::Field("nonce")));
        assert_eq!(
            bad(&|h| h.network = short.clone()),
            Err(HelloError::Field("network"))
        );
        assert_eq!(
            bad(&|h| h.instance = short.clone()),
            Err(HelloError::Field("instance"))
        );
        assert_eq!(bad(&|h| h.class = 9), Err(HelloError::Field("class")));
        assert_eq!(HelloMessage::decode(Bytes::new()), Err(HelloError::Malformed));
    }

    #[test]
    fn long_contacts_and_texts_are_bounded() {
        let proof = HelloMessage::Proof(Proof {
            mac: [0; 32],
            contact: vec![0; MAX_CONTACT + 1].into(),
        });
        assert_eq!(
            HelloMessage::decode(proof.encode()),
            Err(HelloError::Field("contact"))
        );
        let refusal = HelloMessage::Refusal(Refusal {
            reason: Reason::Version,
            text: "ß".repeat(MAX_TEXT),
        });
        assert!(refusal.encode().len() < MAX_TEXT + 16);
    }

    #[test]
    fn versions_talk_to_no_other_one() {
        let at = |version| Hello { version, ..hello() };
        assert!(at(VERSION).speaks_with(VERSION));
        assert!(
            [0, 1, 3, u32::MAX]
                .iter()
                .all(|other| !at(*other).speaks_with(VERSION))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_something_bounded_or_fail(bytes: Vec<u8>) {
            if let Ok(HelloMessage::Refusal(refusal)) = HelloMessage::decode(bytes.into()) {
                prop_assert!(refusal.text.len() <= MAX_TEXT);
            }
        }

        #[test]
        fn damage_is_refused_or_decodes_to_what_encodes_again(
            at in any::<prop::sample::Index>(),
            to: u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = HelloMessage::Hello(hello()).encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(message) = HelloMessage::decode(bytes.into()) {
                prop_assert_eq!(HelloMessage::decode(message.encode()), Ok(message));
            }
        }
    }
}
