//! Stores a file through the daemon of a data directory and prints its link.
//!
//! `cargo run -p mutualstore-client --example put -- DATA_DIR FILE`

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use mutualstore_client::{Client, PutOptions, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [data_dir, path] = arguments.as_slice() else {
        return Err("usage: put DATA_DIR FILE".into());
    };
    let client = Client::open(data_dir)?;
    // A file that changes while it is read is refused.
    let mut file = Source::open(path, false)?;
    let length = file.length();
    let options = PutOptions {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()),
        ..PutOptions::default()
    };
    // What the daemon notices beside the transfer, such as a peer that stopped answering.
    let events = Arc::new(|line: &str| eprintln!("{line}"));
    let reply = client.put(&mut file, length, &options, Some(events), &mut |_, _| ())?;
    println!("{}", reply.body.link);
    Ok(())
}
