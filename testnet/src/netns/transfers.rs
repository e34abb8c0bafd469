//! Files that are put and got during a start.

use std::io::{self, Read};
use std::time::Instant;

use mutualstore_client::PutOptions;

use super::space::Space;
use super::{DETOUR, SLOWER, Stage, StartReport};
use mutualstore_fleet::net::FleetError;
use mutualstore_fleet::stream::{Midway, Noise, get};

impl Stage<'_> {
    /// Takes the interfaces down that are to move, and puts meanwhile where the peer is still to be reached.
    pub(super) fn cut(&self, report: &mut StartReport, writer: usize, usual: f64) -> Result<(), FleetError> {
        let down = || {
            let mut interfaces = report.moved_interfaces.iter();
            interfaces.try_for_each(|interface| Space::take_down(report.moved_peer, *interface))
        };
        if report.moved_interfaces.len() == self.options.interfaces {
            return down();
        }
        let seconds = self.put(writer, usual.to_bits(), down)?.seconds;
        report.put_meanwhile_seconds = Some(seconds);
        if seconds > SLOWER * usual + DETOUR {
            let text =
                format!("a put took {usual:.2} s, {seconds:.2} s when an interface went down meanwhile");
            report.problems.push(text);
        }
        Ok(())
    }

    /// Stores bytes of `seed`, all shards, and does something half-way.
    pub(super) fn put(
        &self,
        index: usize,
        seed: u64,
        half_way: impl FnOnce() -> Result<(), FleetError> + Send,
    ) -> Result<Put, FleetError> {
        let size = self.options.size_bytes;
        let begun = Instant::now();
        let stored = self.ask(index, |client| {
            let mut bytes = Midway {
                from: Noise::new(seed).take(size),
                left: size / 2,
                then: Some(|| half_way().map_err(io::Error::other)),
            };
            let options = PutOptions::default();
            client.put(&mut bytes, Some(size), &options, None, &mut |_, _| ())
        })?;
        let stored = stored.map_err(FleetError::request("put"))?.body;
        if stored.shards_stored < stored.shards_total {
            let (stored, total) = (stored.shards_stored, stored.shards_total);
            return Err(FleetError::Failed(format!(
                "a put through peer {index} stored {stored} of {total} shards"
            )));
        }
        Ok(Put {
            link: stored.link,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Reads them again and answers how many seconds that took.
    pub(super) fn get(&self, index: usize, link: &str, seed: u64) -> Result<f64, FleetError> {
        let begun = Instant::now();
        let read = self.ask(index, |client| get(client, link, seed, self.options.size_bytes))?;
        read.map_err(FleetError::request(format!("get through peer {index}")))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn speed(&self, seconds: f64) -> f64 {
        self.options.size_bytes as f64 / 1e6 / seconds
    }
}

pub(super) struct Put {
    pub(super) link: String,
    pub(super) seconds: f64,
}
