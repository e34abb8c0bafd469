//! Writes the file behind a link to standard output. The link is a secret, so it comes by standard input.
//!
//! `cargo run -p mutualstore-client --example get -- DATA_DIR < link > file`

use std::error::Error;
use std::io;
use std::path::PathBuf;

use mutualstore_client::{Client, GetOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::args_os().nth(1).map(PathBuf::from);
    let client = Client::open(&data_dir.ok_or("usage: get DATA_DIR < link > file")?)?;
    let link = io::read_to_string(io::stdin())?;
    let mut output = io::stdout().lock();
    let bytes = client.get(
        link.trim(),
        &GetOptions::default(),
        &mut output,
        None,
        &mut |_, _| (),
    )?;
    eprintln!("{bytes} bytes");
    Ok(())
}
