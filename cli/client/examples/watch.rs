//! Prints a line each second about a daemon's ring, the health of its files, and repair.
//!
//! `cargo run -p mutualstore-client --example watch -- DATA_DIR`

use std::error::Error;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use mutualstore_client::Client;

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::args_os().nth(1).map(PathBuf::from);
    let client = Client::open(&data_dir.ok_or("usage: watch DATA_DIR")?)?;
    loop {
        let status = client.status()?.body;
        let (files, repair) = (status.files, status.repair);
        println!(
            "{} with {} peers; files: {} safe, {} degraded, {} endangered, {} lost; {} to repair, {} rebuilt",
            status.ring,
            status.peers_known,
            files.safe,
            files.degraded,
            files.endangered,
            files.lost,
            repair.pending,
            repair.regenerated_total
        );
        thread::sleep(Duration::from_secs(1));
    }
}
