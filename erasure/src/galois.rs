//! Linear algebra over GF(2^8): which shards are which combination of which others, and computing them.
//!
//! Every code here is linear: shard i is the sum of the data shards, each multiplied by a coefficient. The n
//! rows of k coefficients form the *generator*. Its first k rows are the identity, so data shards are the
//! bytes of the block; any k of its rows are independent, so any k shards give all others.
//!
//! The Reed-Solomon rows are those of the `reed-solomon-erasure` crate: a Vandermonde matrix brought to
//! systematic form (Plank & Ding 2005, "Note: Correction to the 1997 tutorial on Reed-Solomon coding"). They
//! are part of the stripe format. The rebuilding is ours rather than the crate's, which copies the surviving
//! shards and computes every missing one where one is wanted.

use reed_solomon_erasure::galois_8::{self, ReedSolomon};

use crate::Code;

/// Bytes of every shard that are worked on together, so that they stay in the second-level cache.
const COLUMN: usize = 64 * 1024;

/// One coefficient per input.
pub(crate) type Row = Vec<u8>;

/// The generator of a code within bounds: n rows of k coefficients.
pub(crate) fn generator(code: Code) -> Vec<Row> {
    let data = usize::from(code.k());
    let parity = usize::from(code.m());
    let mut rows = identity(data);
    rows.extend(match code {
        Code::Copies(_) | Code::Xor(_) => vec![vec![1; data]; parity],
        Code::ReedSolomon { .. } => {
            // The parity of the identity's columns is the parity part of the generator.
            let mut coefficients = vec![vec![0; data]; parity];
            ReedSolomon::new(data, parity)
                .and_then(|coder| coder.encode_sep(&rows, &mut coefficients))
                .expect("a code within bounds has 1 <= k, 1 <= m and k + m <= 64");
            coefficients
        }
    });
    rows
}

/// For each row of `wanted`, how the shard with that row is combined from the k shards whose rows are
/// `given`.
pub(crate) fn combinations(given: Vec<Row>, wanted: &[Row]) -> Vec<Row> {
    let inverse = invert(given);
    let combination = |wanted: &Row| {
        let mut sum = vec![0; wanted.len()];
        for (&coefficient, row) in wanted.iter().zip(&inverse) {
            multiply_add(coefficient, row, &mut sum);
        }
        sum
    };
    wanted.iter().map(combination).collect()
}

/// One output of `len` bytes per row: the sum of the inputs, each of `len` bytes, multiplied by the row's
/// coefficients.
pub(crate) fn combine(rows: &[Row], inputs: &[&[u8]], len: usize) -> Vec<Vec<u8>> {
    let mut outputs = vec![vec![0; len]; rows.len()];
    let mut inputs: Vec<_> = inputs.iter().map(|input| input.chunks(COLUMN)).collect();
    let mut writers: Vec<_> = outputs
        .iter_mut()
        .map(|output| output.chunks_mut(COLUMN))
        .collect();
    for _ in 0..len.div_ceil(COLUMN) {
        let column: Vec<&[u8]> = inputs.iter_mut().filter_map(Iterator::next).collect();
        for (row, output) in rows.iter().zip(writers.iter_mut().filter_map(Iterator::next)) {
            let mut terms = row.iter().copied().zip(column.iter().copied());
            if let Some((coefficient, input)) = terms.next() {
                multiply(coefficient, input, output);
            }
            terms.for_each(|(coefficient, input)| multiply_add(coefficient, input, output));
        }
    }
    outputs
}

/// `output = coefficient * input`: the first term of a sum, written without reading the fresh output, whose
/// pages would otherwise fault twice.
fn multiply(coefficient: u8, input: &[u8], output: &mut [u8]) {
    match coefficient {
        1 => output.copy_from_slice(input),
        _ => galois_8::mul_slice(coefficient, input, output),
    }
}

/// `output += coefficient * input`; addition is exclusive or.
fn multiply_add(coefficient: u8, input: &[u8], output: &mut [u8]) {
    match coefficient {
        0 => {}
        1 => output
            .iter_mut()
            .zip(input)
            .for_each(|(output, input)| *output ^= input),
        _ => galois_8::mul_slice_xor(coefficient, input, output),
    }
}

fn identity(size: usize) -> Vec<Row> {
    let unit = |one: usize| (0..size).map(|column| u8::from(column == one)).collect();
    (0..size).map(unit).collect()
}

/// The inverse of a square matrix of independent rows, by Gauss-Jordan elimination.
#[expect(
    clippy::indexing_slicing,
    reason = "every index is below the size of the square"
)]
fn invert(matrix: Vec<Row>) -> Vec<Row> {
    let size = matrix.len();
    let mut rows: Vec<Row> = matrix
        .into_iter()
        .zip(identity(size))
        .map(|(left, right)| [left, right].concat())
        .collect();
    for column in 0..size {
        let pivot = (column..size).find(|&row| rows[row][column] != 0);
        rows.swap(column, pivot.expect("any k rows of a generator are independent"));
        let factor = galois_8::div(1, rows[column][column]);
        let scaled: Row = rows[column]
            .iter()
            .map(|&value| galois_8::mul(factor, value))
            .collect();
        for row in &mut rows {
            let factor = row[column];
            multiply_add(factor, &scaled, row);
        }
        rows[column] = scaled;
    }
    rows.into_iter().map(|mut row| row.split_off(size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing one of these loses every stored stripe of that code.
    #[test]
    fn reed_solomon_rows_are_part_of_the_format() {
        let parity =
            |data, parity| generator(Code::ReedSolomon { data, parity }).split_off(usize::from(data));
        assert_eq!(parity(1, 2), [[1], [1]]);
        assert_eq!(parity(2, 2), [[3, 2], [2, 3]]);
        assert_eq!(parity(4, 2), [[27, 28, 18, 20], [28, 27, 20, 18]]);
    }

    #[test]
    fn inverse_undoes() {
        let rows = generator(Code::ReedSolomon { data: 5, parity: 4 });
        let given: Vec<Row> = [8, 1, 6, 3, 7].map(|index: usize| rows[index].clone()).to_vec();
        assert_eq!(combinations(given.clone(), &given), identity(5));
        assert_eq!(combinations(identity(5), &given), given);
    }

    #[test]
    fn every_width_and_column_edge() {
        let rows = [vec![1, 1, 1], vec![7, 0, 200], vec![0, 1, 9]];
        for len in [1, 7, 31, 32, 33, COLUMN - 1, COLUMN, COLUMN + 1, 3 * COLUMN + 5] {
            let inputs: Vec<Vec<u8>> = (1..=3)
                .map(|seed| {
                    (0..len)
                        .map(|at| u8::try_from((at * 31 + seed * 97) % 251).unwrap())
                        .collect()
                })
                .collect();
            let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            for (row, output) in rows.iter().zip(combine(&rows, &slices, len)) {
                assert_eq!(output.len(), len);
                for (at, &byte) in output.iter().enumerate() {
                    let terms = row
                        .iter()
                        .zip(&inputs)
                        .map(|(&c, input)| galois_8::mul(c, input[at]));
                    assert_eq!(byte, terms.fold(0, |sum, term| sum ^ term), "byte {at} of {len}");
                }
            }
        }
    }
}
