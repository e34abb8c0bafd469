use super::*;

fn reading(peers: usize, rate_bits: Option<u64>, repetition: usize, ingest_seconds: f64) -> Reading {
    Reading {
        peers,
        copies: 3,
        placement: "successors".to_owned(),
        file_bytes: 1_000_000,
        rate_bits,
        repetition,
        writer: 0,
        reader: 1,
        ingest_seconds,
        daemon_seconds: ingest_seconds - 0.001,
        download_seconds: ingest_seconds / 2.0,
        shards_stored: 6,
        shards_total: 6,
        kept_bytes: 1_000_256,
        own_bytes: 0,
    }
}

const LIMIT: Option<u64> = Some(100_000_000);

/// 2 MB less a burst of 122,070 bytes over 12.5 MB/s.
const DIRECT: f64 = (2e6 - 12.5e6 / 512.0 - 12.5e6 / 128.0) / 12.5e6;

fn cell(table: &Table, row: usize, column: &str) -> Datum {
    let at = table.columns.iter().position(|name| name == column).unwrap();
    table.rows[row][at].clone()
}

#[test]
fn repetitions_of_a_cell_are_summed_up() {
    let mut readings: Vec<Reading> = (1..=101_u8)
        .map(|number| reading(3, None, number.into(), f64::from(number)))
        .collect();
    readings.push(Reading {
        shards_stored: 5,
        ..reading(3, None, 0, 9999.0)
    });
    let found = findings(&Ingest::quick(), &readings);
    let table = &found.tables[0];
    assert_eq!(table.rows.len(), 1);
    for (column, value) in [("median", 51.0), ("mean", 51.0), ("p5", 6.0), ("p95", 96.0)] {
        assert_eq!(cell(table, 0, column), value.into(), "{column}");
    }
    assert_eq!(cell(table, 0, "writer keeps"), 1.0.into());
    assert_eq!(cell(&found.tables[1], 0, "reader has"), 0.0.into());
    let of_full = histograms(&readings);
    assert_eq!(of_full.len(), 2);
    assert_eq!(of_full[0].values.len(), 101);
    assert!(
        of_full[0].title.starts_with("ingest of 1 MB, 3 peers"),
        "{}",
        of_full[0].title
    );
    assert!(found.notes.iter().any(|note| note.starts_with("1 of 102 files")));
    let point = found.figures[0].series[0].points[0];
    assert_eq!((point.x, point.y, point.range), (3.0, 51.0, Some((26.0, 76.0))));
}

#[test]
fn differences_from_the_prediction_are_explained() {
    let of = |measured: f64, unlimited: Option<f64>| {
        let mut readings = vec![reading(3, LIMIT, 0, measured)];
        readings.extend(unlimited.map(|seconds| reading(3, None, 0, seconds)));
        let table = findings(&Ingest::quick(), &readings).tables.swap_remove(2);
        (cell(&table, 0, "direct"), cell(&table, 0, "difference"))
    };
    let (direct, verdict) = of(DIRECT * 1.04, Some(0.01));
    assert_eq!((direct, verdict), (DIRECT.into(), "the link alone".into()));
    assert_eq!(of(DIRECT + 0.05, Some(0.05)).1, "within fixed costs".into());
    assert_eq!(of(DIRECT * 0.9, Some(0.05)).1, "less than predicted".into());
    assert_eq!(of(DIRECT + 0.05, None).1, "not measured without limit".into());
    assert_eq!(of(1.0 + DIRECT, Some(0.5)).1, "0.500 s more than both".into());
}

#[test]
fn predictions_stand_beside_measurements_and_curves_by_peers() {
    let readings = [
        reading(3, None, 0, 0.03),
        reading(12, None, 0, 0.03),
        reading(3, LIMIT, 0, DIRECT),
        Reading {
            kept_bytes: 0,
            ..reading(12, LIMIT, 0, 0.235)
        },
    ];
    let found = findings(&Ingest::quick(), &readings);
    let table = &found.tables[2];
    assert_eq!(table.rows.len(), 2);
    // One block: its link time and three waits of 0.01 s.
    let Datum::Number(least) = cell(table, 0, "placed, least") else {
        panic!("{table}");
    };
    assert!((least - DIRECT - 0.03).abs() < 1e-9, "{least}");
    let Datum::Number(third) = cell(table, 1, "direct") else {
        panic!("{table}");
    };
    assert!((third - DIRECT - 1e6 / 12.5e6).abs() < 1e-9, "{third}");
    let by_peers = found
        .figures
        .iter()
        .find(|figure| figure.title == "ingest of 1 MB, 100 Mbit/s, by number of peers")
        .unwrap();
    let direct = &by_peers.series[1];
    assert!(direct.is_reference && direct.name.starts_with("direct"));
    assert!((direct.points[0].y - DIRECT).abs() < 1e-9);
    assert!((direct.points[1].y - DIRECT - 0.75 * 0.08).abs() < 1e-9);
    let notes = found.notes.join("\n");
    assert!(
        notes.contains("ingest at 100 Mbit/s: of 2 cells, 2 take what"),
        "{notes}"
    );
}

#[test]
fn no_readings_give_no_figures() {
    let found = findings(&Ingest::quick(), &[]);
    assert!(found.figures.is_empty() && histograms(&[]).is_empty());
    assert!(found.tables.iter().all(|table| table.rows.is_empty()));
}

#[test]
fn winner_is_named_where_quartiles_part() {
    let of = |other: f64| {
        let mut readings: Vec<Reading> = (0..9_u8)
            .map(|number| reading(3, None, number.into(), 1.0 + f64::from(number) / 100.0))
            .collect();
        readings.extend(readings.clone().into_iter().map(|reading| Reading {
            placement: "random".to_owned(),
            ingest_seconds: reading.ingest_seconds + other,
            ..reading
        }));
        findings(&Ingest::quick(), &readings).notes.join("\n")
    };
    assert!(of(1.04).contains("successors is fastest with 1.04 s, random takes 2.00 times as long"));
    let alike = of(0.01);
    assert!(
        alike.contains("no placement stands out: medians from 1.04 to 1.05 s"),
        "{alike}"
    );
    assert!(!alike.contains("ingest of 1 MB with 3 peers, no limit: successors is"));
}
