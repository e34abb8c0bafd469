//! Where bad networks come from: every daemon announces a proxy in this process instead of itself, so each
//! connection others open to it can be cut, slowed, stalled or garbled while it lasts.
//!
//! What a daemon dials itself runs through the proxies of those it dials: a victim is cut off in one
//! direction, which is the harder case. One thread serves all proxies; nothing here is remembered.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const CHUNK: usize = 64 << 10;
/// What a slow network adds to each chunk: 20 ms in one direction, at most 3.3 MB/s.
const DELAY: Duration = Duration::from_millis(20);
/// A garbled network flips one bit in one of so many chunks, so that something gets through before.
const FLIP_EVERY: u32 = 16;

/// The state of the network in front of a daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NetworkFault {
    /// Bytes pass as they come.
    #[default]
    Clear,
    /// They pass late.
    Slow,
    /// Nothing passes and nothing ends.
    Stalled,
    /// Connections end, new ones at once.
    Cut,
    /// Bits flip.
    Garbled,
}

/// What the proxies did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Bytes carried between daemons.
    pub bytes: u64,
    /// Bits flipped in them.
    pub flipped_bits: u64,
    /// Connections cut, or refused while cut.
    pub cut_connections: u64,
}

/// The proxies of a network; they end with this.
#[derive(Debug)]
pub(super) struct Proxies {
    runtime: Runtime,
    passed: Arc<Mutex<Passed>>,
}

/// The proxy of one daemon.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    network_fault: watch::Sender<NetworkFault>,
}

/// What the connections of a proxy go by.
#[derive(Clone)]
struct Link {
    target: SocketAddr,
    network_fault: watch::Receiver<NetworkFault>,
    passed: Arc<Mutex<Passed>>,
}

impl Proxies {
    pub(super) fn start() -> io::Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("proxies");
        let runtime = runtime.enable_io().enable_time().build()?;
        let passed = Arc::default();
        Ok(Self { runtime, passed })
    }

    /// Opens a proxy on any free port in front of a port of this machine, where nobody needs to listen yet.
    pub(super) fn open(&self, target: u16) -> io::Result<Proxy> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let (network_fault, now) = watch::channel(NetworkFault::Clear);
        let link = Link {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target)),
            network_fault: now,
            passed: Arc::clone(&self.passed),
        };
        let _runtime = self.runtime.enter();
        self.runtime.spawn(serve(TcpListener::from_std(listener)?, link));
        Ok(Proxy { port, network_fault })
    }

    /// What passed so far.
    pub(super) fn passed(&self) -> Passed {
        *self.passed.lock()
    }
}

impl Proxy {
    /// Where it listens, on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, network_fault: NetworkFault) {
        self.network_fault.send_replace(network_fault);
    }
}

impl Link {
    fn is_cut(&self) -> bool {
        *self.network_fault.borrow() == NetworkFault::Cut
    }

    fn count_cut(&self) {
        self.passed.lock().cut_connections += u64::from(self.is_cut());
    }
}

async fn serve(listener: TcpListener, link: Link) {
    // An error of `accept` is that of one connection, or of too many: both pass.
    while link.network_fault.has_changed().is_ok() {
        let Ok((near, _)) = listener.accept().await else {
            tokio::time::sleep(DELAY).await;
            continue;
        };
        if link.is_cut() {
            link.count_cut();
        } else {
            tokio::spawn(connect(near, link.clone()));
        }
    }
}

async fn connect(near: TcpStream, mut link: Link) {
    let Ok(far) = TcpStream::connect(link.target).await else {
        return;
    };
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let mut other = link.clone();
    // When one direction is cut, both are.
    tokio::select! {
        () = carry(near_in, far_out, &mut link, 0) => (),
        // Not in step with the other direction, or an echo would undo it.
        () = carry(far_in, near_out, &mut other, FLIP_EVERY / 2) => (),
    }
    link.count_cut();
}

/// Carries bytes until the connection or the network ends; `chunks` is the number of the first one.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &mut Link, mut chunks: u32) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(count) if count > 0 => count,
                Ok(_) | Err(_) => return,
            },
            changed = link.network_fault.changed() => match changed {
                Ok(()) if !link.is_cut() => continue,
                Ok(()) | Err(_) => return,
            },
        };
        let chunk = buffer.get_mut(..count).unwrap_or_default();
        let now = *link.network_fault.borrow_and_update();
        match now {
            NetworkFault::Clear => {}
            NetworkFault::Slow => tokio::time::sleep(DELAY).await,
            NetworkFault::Stalled => {
                let moves = |now: &NetworkFault| *now != NetworkFault::Stalled;
                if link.network_fault.wait_for(moves).await.is_err() {
                    return;
                }
            }
            NetworkFault::Cut => return,
            NetworkFault::Garbled => {
                chunks = chunks.wrapping_add(1);
                if let Some(byte) = chunk.last_mut().filter(|_| chunks.is_multiple_of(FLIP_EVERY)) {
                    *byte ^= 1;
                    link.passed.lock().flipped_bits += 1;
                }
            }
        }
        if to.write_all(chunk).await.is_err() {
            return;
        }
        link.passed.lock().bytes += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    /// An echo on the far side; the near side of a connection through the proxy.
    fn echo() -> (Proxies, Proxy) {
        let far = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = far.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in far.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let proxies = Proxies::start().unwrap();
        let proxy = proxies.open(port).unwrap();
        (proxies, proxy)
    }

    fn near(proxy: &Proxy) -> TcpStream {
        let near = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near
    }

    fn exchange(near: &mut TcpStream) -> io::Result<bool> {
        near.write_all(b"hello")?;
        let mut back = [0; 5];
        near.read_exact(&mut back)?;
        Ok(&back == b"hello")
    }

    #[test]
    fn cut_link_ends_old_and_new_connections() {
        let (_proxies, proxy) = echo();
        let mut before = near(&proxy);
        assert!(exchange(&mut before).unwrap());
        proxy.set(NetworkFault::Cut);
        assert!(exchange(&mut before).is_err() || exchange(&mut before).is_err());
        assert!(exchange(&mut near(&proxy)).is_err());
        proxy.set(NetworkFault::Clear);
        assert!(exchange(&mut near(&proxy)).unwrap());
    }

    #[test]
    fn bytes_on_a_stalled_link_arrive_when_it_clears() {
        let (_proxies, proxy) = echo();
        let mut stream = near(&proxy);
        assert!(exchange(&mut stream).unwrap());
        proxy.set(NetworkFault::Stalled);
        stream.write_all(b"late").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut back = [0; 4];
        assert!(stream.read_exact(&mut back).is_err());
        proxy.set(NetworkFault::Clear);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"late");
    }

    #[test]
    fn bytes_on_a_garbled_link_differ_now_and_then() {
        let (_proxies, proxy) = echo();
        let mut stream = near(&proxy);
        proxy.set(NetworkFault::Garbled);
        let right = (0..200).filter(|_| exchange(&mut stream).unwrap()).count();
        assert!((100..200).contains(&right), "{right} of 200 were right");
        proxy.set(NetworkFault::Slow);
        assert!(exchange(&mut stream).unwrap());
    }
}
