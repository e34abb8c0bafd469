//! What other peers send: messages, contacts, hellos and frames.

use std::fmt::Debug;

use bytes::Bytes;
use mutualstore_daemon::wire::contact::{decode_contact, encode_contact};
use mutualstore_daemon::wire::peer::{PeerRequest, PeerResponse};
use mutualstore_daemon::wire::shard::{ShardRequest, ShardResponse};
use mutualstore_daemon::wire::signed::Verifier;
use mutualstore_dht::Contact;
use mutualstore_net::frame::{Header, Limits};
use mutualstore_net::{Class, MAX_RPC_BODY, MAX_SHARD_HEAD, MAX_SHARD_PAYLOAD};
use mutualstore_proto::hello::{HelloMessage, MAX_MESSAGE};
use mutualstore_proto::wire;
use prost::Message;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The network that contacts are signed for.
pub(crate) const NETWORK: [u8; 32] = [9; 32];
/// The secret key of the peer that signs.
pub(crate) const SEED: [u8; 32] = [7; 32];

/// What decodes is the same after another round, in no more than twice the bytes: a field that is absent
/// from the input comes back as its default, a tag and a length.
fn survives<T: PartialEq + Debug, E: Debug>(
    bytes: &[u8],
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) -> Option<T> {
    let value = decode(Bytes::copy_from_slice(bytes)).ok()?;
    let again = encode(&value);
    assert!(again.len() <= 2 * bytes.len() + 64, "{} bytes", again.len());
    assert_eq!(decode(again).expect("what was encoded decodes"), value);
    Some(value)
}

/// A request on the RPC stream: of the ring, of custody, of the daemon.
pub fn peer_request(bytes: &[u8]) {
    let verifier = Verifier::new(NETWORK);
    survives(
        bytes,
        |bytes| PeerRequest::decode(bytes, &verifier),
        PeerRequest::encode,
    );
}

/// An answer on the RPC stream.
pub fn peer_response(bytes: &[u8]) {
    let verifier = Verifier::new(NETWORK);
    survives(
        bytes,
        |bytes| PeerResponse::decode(bytes, &verifier),
        PeerResponse::encode,
    );
}

/// The head of a shard request.
pub fn shard_request(bytes: &[u8]) {
    survives(bytes, ShardRequest::decode, ShardRequest::encode);
}

/// The head of a shard answer.
pub fn shard_response(bytes: &[u8]) {
    survives(bytes, ShardResponse::decode, ShardResponse::encode);
}

/// A contact as it came, and the same bytes as the form of one that its peer signs: whatever is taken has one
/// form only.
pub fn contact(bytes: &[u8]) {
    let verifier = Verifier::new(NETWORK);
    let valid = |contact: Option<Contact>| assert!(contact.is_none_or(|contact| contact.is_valid()));
    valid(survives(
        bytes,
        |bytes| decode_contact(bytes, &verifier),
        encode_contact,
    ));
    let signed = sign(bytes);
    if let Ok(contact) = decode_contact(signed.clone(), &verifier) {
        assert_eq!(encode_contact(&contact), signed);
        valid(Some(contact));
    }
}

/// The form of a contact, whose first 32 bytes become the key that signs it.
fn sign(form: &[u8]) -> Bytes {
    let keys = Ed25519KeyPair::from_seed_unchecked(&SEED).expect("a seed has 32 bytes");
    let rest = form.get(32..).unwrap_or_default();
    let body = [keys.public_key().as_ref(), rest].concat();
    let signed = [b"mutualstore/contact/1", NETWORK.as_slice(), &body].concat();
    let message = wire::Contact {
        signature: Bytes::copy_from_slice(keys.sign(&signed).as_ref()),
        body: body.into(),
    };
    message.encode_to_vec().into()
}

/// A message of the hello, without its length.
pub fn hello(bytes: &[u8]) {
    if let Some(message) = survives(bytes, HelloMessage::decode, HelloMessage::encode) {
        assert!(message.encode().len() <= MAX_MESSAGE);
    }
}

/// The fixed part of a frame, in both classes of connection.
pub fn frame(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk() else {
        return;
    };
    let limits = [
        (Class::Rpc, 0, MAX_RPC_BODY),
        (Class::Shards, MAX_SHARD_HEAD, MAX_SHARD_PAYLOAD),
    ];
    for (class, head, payload) in limits {
        if let Ok(header) = Header::parse(bytes, Limits::of(class)) {
            assert!(header.head <= head && header.payload <= payload);
            let mut again = Vec::new();
            header.put(&mut again);
            assert_eq!(again, bytes);
        }
    }
}
