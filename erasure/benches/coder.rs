//! Stripes from blocks and blocks from stripes, of 4 MiB.

#![allow(missing_docs, reason = "benches are named by what they measure")]

use bytes::Bytes;
use divan::counter::BytesCount;
use mutualstore_erasure::{Code, Policy, VerifiedShard, decode, encode, reconstruct};

const BLOCK: usize = 4 << 20;
const CODES: [Code; 3] = [
    Code::Xor(4),
    Code::ReedSolomon { data: 4, parity: 2 },
    Code::ReedSolomon { data: 20, parity: 10 },
];

fn main() {
    divan::main();
}

fn shards(code: Code) -> Vec<VerifiedShard> {
    let block: Vec<u8> = (0..=u8::MAX).cycle().take(BLOCK).collect();
    encode(code, Policy::Successors, [0; 32], [0; 32], block.into()).expect("the block fits")
}

#[divan::bench(args = CODES)]
fn encode_block(bencher: divan::Bencher<'_, '_>, code: Code) {
    let block = Bytes::from(vec![7; BLOCK]);
    bencher
        .counter(BytesCount::new(BLOCK))
        .bench(|| encode(code, Policy::Successors, [0; 32], [0; 32], block.clone()));
}

#[divan::bench(args = CODES)]
fn decode_without_first_shard(bencher: divan::Bencher<'_, '_>, code: Code) {
    let shards = shards(code).split_off(1);
    bencher.counter(BytesCount::new(BLOCK)).bench(|| decode(&shards));
}

#[divan::bench(args = CODES)]
fn reconstruct_first_shard(bencher: divan::Bencher<'_, '_>, code: Code) {
    let shards = shards(code).split_off(1);
    bencher.bench(|| reconstruct(&shards, &[0]));
}
