//! Network namespaces joined by bridges, in a corner of the system of their own.
//!
//! Everything is made inside a private network and mount namespace, entered once by [`enter`]: when the last
//! process in it ends, however it ends, the kernel takes namespaces, bridges and virtual cables away. As
//! another user than root that takes a user namespace too, which some systems forbid.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use itertools::Itertools;
use rustix::mount::{MountFlags, mount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Family;
use mutualstore_fleet::net::FleetError;

/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// Whether namespaces can be made here; the error says why not.
fn probe() -> Result<(), String> {
    let heard = |program: &str, package: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                format!("there is no `{program}`; install it (Debian: {package})")
            } else {
                format!("cannot run `{program}`: {error}")
            }
        })
    };
    heard("ip", "iproute2", &["-V"])?;
    let tried = heard("unshare", "util-linux", &[unshare(), "true"])?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let line = said.lines().next().unwrap_or("unshare failed without a word");
    Err(line.to_owned())
}

/// What makes the namespaces: a user namespace as well unless this is root.
fn unshare() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "-nm"
    } else {
        "-Urnm"
    }
}

/// Runs this very command again with `arguments` in namespaces of its own. Comes back only when that is not
/// possible.
pub fn enter(binary: &Path, arguments: &[OsString]) -> FleetError {
    if let Err(why) = probe() {
        return unavailable(why);
    }
    let mut command = Command::new("unshare");
    command.arg(unshare()).arg(binary).args(arguments);
    unavailable(command.exec().to_string())
}

fn unavailable(why: impl std::fmt::Display) -> FleetError {
    FleetError::Unavailable(format!(
        "network namespaces are not available here: {why}; nothing was run"
    ))
}

/// Gives this process a place of its own for the names of namespaces.
fn hide_names() -> Result<(), FleetError> {
    let place = if fs::create_dir_all(NAMES).is_ok() {
        NAMES
    } else {
        "/run"
    };
    mount(c"tmpfs", place, c"tmpfs", MountFlags::empty(), None)
        .map_err(|error| unavailable(format!("cannot mount over {place}: {error}")))?;
    fs::create_dir_all(NAMES).map_err(|error| unavailable(format!("cannot make {NAMES}: {error}")))
}

/// One namespace for each peer, each with as many interfaces as there are bridges.
#[derive(Debug)]
pub(super) struct Space {
    peers: usize,
    interfaces: usize,
    family: Family,
    /// How often interfaces got new addresses, by peer and interface.
    moves: BTreeMap<(usize, usize), u8>,
}

impl Space {
    /// Prepares this process, once.
    pub(super) fn prepare(interfaces: usize) -> Result<(), FleetError> {
        hide_names()?;
        let mut script = vec!["link set lo up".to_owned()];
        for bridge in 0..interfaces {
            script.push(format!("link add br{bridge} type bridge"));
            script.push(format!("link set br{bridge} up"));
        }
        ip(None, &script).map_err(unavailable)
    }

    /// Makes the namespaces and their addresses.
    pub(super) fn new(peers: usize, interfaces: usize, family: Family) -> Result<Self, FleetError> {
        let space = Self {
            peers,
            interfaces,
            family,
            moves: BTreeMap::new(),
        };
        for peer in 0..peers {
            call(&["netns", "add", &name(peer)])?;
            let mut outside = Vec::new();
            let mut inside = vec!["link set lo up".to_owned()];
            for interface in 0..interfaces {
                let (cable, peer_name) = (cable(peer, interface), name(peer));
                outside.push(format!(
                    "link add {cable} type veth peer name eth{interface} netns {peer_name}"
                ));
                outside.push(format!("link set {cable} master br{interface} up"));
                for address in space.networks(peer, interface) {
                    // Nobody else has it: no need to wait until that is certain.
                    let sure = if address.contains(':') { " nodad" } else { "" };
                    inside.push(format!("addr add {address} dev eth{interface}{sure}"));
                }
                inside.push(format!("link set eth{interface} up"));
            }
            ip(None, &outside)?;
            ip(Some(peer), &inside)?;
        }
        Ok(space)
    }

    /// Addresses of an interface, with the length of the network part.
    fn networks(&self, peer: usize, interface: usize) -> Vec<String> {
        let (v4, v6) = self.hosts(peer, interface);
        self.family.of(format!("{v4}/16"), format!("{v6}/64"))
    }

    fn hosts(&self, peer: usize, interface: usize) -> (Ipv4Addr, Ipv6Addr) {
        let moved = self.moves.get(&(peer, interface)).copied().unwrap_or(0);
        // There are fewer of both than fit.
        let [network, host] = [interface, peer + 1].map(|number| u8::try_from(number).unwrap_or(u8::MAX));
        let v4 = Ipv4Addr::new(10, network.saturating_add(70), moved, host);
        let v6 = (0xfd70 + u128::from(network)) << 112 | u128::from(moved) << 16 | u128::from(host);
        (v4, v6.into())
    }

    /// What a contact of this peer is to hold, sorted.
    pub(super) fn expected(&self, peer: usize, port: u16) -> Vec<String> {
        let hosts = (0..self.interfaces).map(|interface| self.hosts(peer, interface));
        let (of, port) = (|v4, v6| self.family.of(v4, v6), format!("tcp/{port}"));
        let expected =
            hosts.flat_map(|(v4, v6)| of(format!("/ip4/{v4}/{port}"), format!("/ip6/{v6}/{port}")));
        expected.sorted().collect()
    }

    /// An interface goes down and loses its addresses.
    pub(super) fn take_down(peer: usize, interface: usize) -> Result<(), FleetError> {
        let script = [
            format!("link set eth{interface} down"),
            format!("addr flush dev eth{interface}"),
        ];
        ip(Some(peer), &script)
    }

    /// The interface comes back with other addresses.
    pub(super) fn bring_back(&mut self, peer: usize, interface: usize) -> Result<(), FleetError> {
        *self.moves.entry((peer, interface)).or_default() += 1;
        let networks = self.networks(peer, interface).into_iter();
        let add = networks.map(|address| format!("addr add {address} dev eth{interface}"));
        let up = format!("link set eth{interface} up");
        let script: Vec<String> = add.chain([up]).collect();
        ip(Some(peer), &script)
    }

    /// Does `work` on a thread inside the namespace of a peer: what it connects to, and what it starts, is
    /// there.
    pub(super) fn within<T: Send>(peer: usize, work: impl FnOnce() -> T + Send) -> Result<T, FleetError> {
        let path = PathBuf::from(NAMES).join(name(peer));
        let failed =
            |error: io::Error| FleetError::Failed(format!("cannot enter {}: {error}", path.display()));
        let namespace = File::open(&path).map_err(failed)?;
        let done = thread::scope(|scope| {
            let working = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            working
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.map_err(failed)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for peer in 0..self.peers {
            // A namespace is taken apart some time after it lost its name; its cables are to be gone now.
            let cables = (0..self.interfaces).map(|n| format!("link del {}", cable(peer, n)));
            let cables: Vec<String> = cables.collect();
            // What stays goes with this process.
            drop(ip(None, &cables));
            drop(call(&["netns", "del", &name(peer)]));
        }
    }
}

fn name(peer: usize) -> String {
    format!("mutual{peer}")
}

/// The end of a virtual cable that is plugged into the bridge.
fn cable(peer: usize, interface: usize) -> String {
    format!("v{peer}.{interface}")
}

fn call(words: &[&str]) -> Result<(), FleetError> {
    let output = Command::new("ip").args(words).output();
    finished(output, || format!("ip {}", words.join(" ")))
}

/// Runs commands of `ip`, one a line, in a peer's namespace or in this process's own.
fn ip(peer: Option<usize>, script: &[String]) -> Result<(), FleetError> {
    let mut command = Command::new("ip");
    if let Some(peer) = peer {
        command.args(["-n", &name(peer)]);
    }
    command.args(["-batch", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut ran = || {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(format!("{}\n", script.join("\n")).as_bytes())?;
        }
        child.wait_with_output()
    };
    finished(ran(), || format!("ip -batch ({})", script.join("; ")))
}

fn finished(output: io::Result<std::process::Output>, what: impl Fn() -> String) -> Result<(), FleetError> {
    let output = output.map_err(|error| FleetError::Failed(format!("{}: {error}", what())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(FleetError::Failed(format!("{}: {}", what(), said.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_by_peer_interface_and_move() {
        let mut space = Space {
            peers: 0,
            interfaces: 2,
            family: Family::Both,
            moves: BTreeMap::new(),
        };
        assert_eq!(
            space.expected(0, 4001),
            [
                "/ip4/10.70.0.1/tcp/4001",
                "/ip4/10.71.0.1/tcp/4001",
                "/ip6/fd70::1/tcp/4001",
                "/ip6/fd71::1/tcp/4001",
            ]
        );
        space.moves.insert((1, 0), 3);
        assert_eq!(space.networks(1, 0), ["10.70.3.2/16", "fd70::3:2/64"]);
        assert_eq!(space.networks(1, 1), ["10.71.0.2/16", "fd71::2/64"]);
    }
}
