//! A member of the network that says of all others what is not true.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use mutualstore_daemon::format::crypt::public_key;
use mutualstore_daemon::wire::contact::{decode_contact, encode_contact};
use mutualstore_daemon::wire::peer::{PeerRequest, PeerResponse};
use mutualstore_daemon::wire::signed::{Signer, Verifier};
use mutualstore_dht::ring::{Request, Response};
use mutualstore_dht::{Contact, Peer, PeerState, SignContact as _, Signature};
use mutualstore_net::{Net, NetConfig, NetworkInfo, Service, Target};
use serde_json::Value;
use tokio::runtime::Runtime;

const SEED: [u8; 32] = [66; 32];
const DEADLINE: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Forger {
    runtime: Runtime,
    net: Net,
    liar: Arc<Liar>,
}

struct Liar {
    verifier: Arc<Verifier>,
    signer: Signer,
    own: Mutex<Contact>,
    met: Mutex<BTreeMap<Peer, Contact>>,
}

impl Liar {
    fn own(&self) -> Contact {
        self.own.lock().unwrap().clone()
    }

    /// A contact of each peer met, newer than all of its own, that leads here: once with the signature it
    /// had, once signed by the liar.
    fn forged(&self) -> Vec<Contact> {
        let own = self.own();
        let met = self.met.lock().unwrap();
        let lies = met.values().flat_map(|contact| {
            let lie = Contact {
                version: u64::MAX - 1,
                addresses: own.addresses.clone(),
                capacity: 1,
                state: PeerState::Draining,
                ..contact.clone()
            };
            let signed = Contact {
                signature: self.signer.sign(&lie),
                ..lie.clone()
            };
            [lie, signed]
        });
        lies.collect()
    }

    fn note(&self, contact: Contact) {
        self.met.lock().unwrap().insert(contact.peer, contact);
    }

    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Ping { .. } => Response::Pong {
                contact: self.own(),
                member: true,
            },
            Request::Neighbours { contact, .. } => {
                self.note(contact);
                Response::Contacts([vec![self.own()], self.few_forged()].concat())
            }
            Request::Next { .. } => Response::Found([vec![self.own()], self.few_forged()].concat()),
            Request::Leave { .. } => Response::Ack,
        }
    }

    /// So few that the message is taken in spite of them.
    fn few_forged(&self) -> Vec<Contact> {
        self.forged().into_iter().take(8).collect()
    }
}

impl Service for Liar {
    fn contact(&self) -> Bytes {
        encode_contact(&self.own())
    }

    fn hello(&self, _: Peer, contact: Bytes) {
        if let Ok(contact) = decode_contact(contact, &self.verifier) {
            self.note(contact);
        }
    }

    fn elsewhere(&self, _: Peer, _: &Bytes) -> Vec<String> {
        Vec::new()
    }

    fn addresses(&self, _: Peer) -> Vec<String> {
        Vec::new()
    }

    fn disconnected(&self, _: Peer) {}

    fn rpc(self: Arc<Self>, _: Peer, body: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            let response = match PeerRequest::decode(body, &self.verifier) {
                Ok(PeerRequest::Ring(request)) => PeerResponse::Ring(self.answer(request)),
                Ok(_) | Err(_) => PeerResponse::Refused("no".to_owned()),
            };
            response.encode()
        }
        .boxed()
    }

    fn shard(self: Arc<Self>, _: Peer, _: Bytes, _: Bytes) -> BoxFuture<'static, (Bytes, Bytes)> {
        async { (Bytes::new(), Bytes::new()) }.boxed()
    }
}

fn listen_of(data_dir: &Path) -> (Peer, Vec<String>) {
    let info = std::fs::read(data_dir.join("daemon.json")).unwrap();
    let info: Value = serde_json::from_slice(&info).unwrap();
    let addresses = info["listen"].as_array().unwrap().iter();
    let addresses = addresses.map(|address| address.as_str().unwrap().to_owned());
    (
        info["peer"].as_str().unwrap().parse().unwrap(),
        addresses.collect(),
    )
}

fn network_of(data_dir: &Path) -> NetworkInfo {
    let network = std::fs::read(data_dir.join("network.json")).unwrap();
    let network: Value = serde_json::from_slice(&network).unwrap();
    let bytes = |name: &str| hex::decode(network[name].as_str().unwrap()).unwrap();
    NetworkInfo {
        id: bytes("id").try_into().unwrap(),
        secret: bytes("secret").into(),
        unit: network["unit"].as_u64().unwrap(),
        r: u32::try_from(network["successors"].as_u64().unwrap()).unwrap(),
    }
}

impl Forger {
    /// Joins the network of a daemon, with its secret.
    pub(super) fn join(data_dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let network = network_of(data_dir);
        let verifier = Arc::new(Verifier::new(network.id));
        let own = Contact {
            peer: Peer::new(public_key(&SEED)),
            version: 1,
            virtual_nodes: vec![0, 1, 2, 3].into(),
            addresses: [].into(),
            capacity: 1 << 30,
            used: 0,
            state: PeerState::Accepting,
            zone: "".into(),
            signature: Signature::default(),
        };
        let liar = Arc::new(Liar {
            signer: Signer::new(&SEED, Arc::clone(&verifier)),
            verifier,
            own: Mutex::new(own),
            met: Mutex::default(),
        });
        let config = NetConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            network,
            ..NetConfig::default()
        };
        let service = Arc::clone(&liar) as Arc<dyn Service>;
        let net = runtime.block_on(Net::start(SEED, config, service)).unwrap();
        {
            let mut own = liar.own.lock().unwrap();
            own.addresses = net.listen_addresses().into();
            own.signature = liar.signer.sign(&own);
        }
        Self { runtime, net, liar }
    }

    pub(super) fn peer(&self) -> String {
        self.net.peer().to_string()
    }

    /// Tells every daemon every lie in every message that has room for one.
    pub(super) fn forge_everything(&self, data_dirs: &[PathBuf]) {
        self.runtime.block_on(async {
            for (peer, addresses) in data_dirs.iter().map(|dir| listen_of(dir)) {
                let dialed = self.net.dial(&addresses[0]).await.unwrap();
                assert_eq!(dialed.peer, peer);
            }
            for (peer, addresses) in data_dirs.iter().map(|dir| listen_of(dir)) {
                let to = Target { peer, addresses };
                for request in self.requests() {
                    let body = PeerRequest::Ring(request).encode();
                    // What it answers does not matter.
                    drop(self.net.call(&to, body, DEADLINE).await.unwrap());
                }
            }
        });
    }

    fn requests(&self) -> Vec<Request> {
        let own = self.liar.own();
        let neighbours = |contact: &Contact| Request::Neighbours {
            contact: contact.clone(),
            member: true,
            of: contact.ids().collect(),
            digest: 0,
        };
        let mut requests = vec![neighbours(&own)];
        for lie in self.liar.forged() {
            requests.push(neighbours(&lie));
            requests.push(Request::Leave { contact: lie.clone() });
            requests.push(Request::Ping { held: Some(lie) });
        }
        requests
    }
}

impl Drop for Forger {
    fn drop(&mut self) {
        self.runtime.block_on(self.net.shutdown());
    }
}
