//! A scripted HTTP server stands in for the daemon; the daemon itself is tested from `cli/tests`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;

/// One request as the server saw it.
struct Seen {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Seen {
    fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line.eq_ignore_ascii_case(header))
    }
}

/// Serves every connection with `script`, which writes the raw answer; one request per connection.
fn serve(script: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let script = Arc::clone(&script);
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                if let Some(seen) = receive(&stream) {
                    script(&seen, &mut stream);
                }
            });
        }
    });
    Client::new(&base, "secret")
}

fn receive(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let mut seen = Seen {
        line: lines.next()?,
        headers: lines.collect(),
        body: Vec::new(),
    };
    if seen.has("expect: 100-continue") {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let length = seen.headers.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().unwrap())
    });
    if let Some(length) = length {
        seen.body = vec![0; length];
        reader.read_exact(&mut seen.body).ok()?;
    } else if seen.has("transfer-encoding: chunked") {
        reader.read_until(b'\0', &mut seen.body).ok()?;
    }
    Some(seen)
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
}

const PUT: &str = r#"{"link":"mutual1abc","size_bytes":5,"stripes":1,"code":"copies:1","placement":"successors",
    "shards_stored":1,"shards_total":1,"seconds":0.1,"warning":"one copy"}"#;
const OVER: &str = r#"{"events":[],"next":0,"done":true,"error":null}"#;

#[test]
fn put_sends_length_options_and_token() {
    let client = serve(|seen, stream| {
        if seen.line.contains("/events") {
            return send(stream, "200 OK", "", OVER);
        }
        assert!(
            seen.line
                .starts_with("PUT /v1/files?name=a%20b%26c&code=rs%3A4%2B2&degraded=1 "),
            "{}",
            seen.line
        );
        assert!(seen.has("authorization: Bearer secret"));
        assert_eq!(seen.body, b"hello");
        send(stream, "201 Created", "", PUT);
    });
    let options = PutOptions {
        name: Some("a b&c".to_owned()),
        code: Some("rs:4+2".to_owned()),
        degraded: true,
        ..PutOptions::default()
    };
    let mut last = (0, None);
    let reply = client
        .put(
            &mut &b"hello"[..],
            Some(5),
            &options,
            Some(Arc::new(|_| ())),
            &mut |done, total| last = (done, total),
        )
        .unwrap();
    assert_eq!(reply.body.link, "mutual1abc");
    assert_eq!(reply.json["warning"], "one copy");
    assert_eq!(last, (5, Some(5)));
}

#[test]
fn an_empty_file_and_a_longer_file_send_what_was_announced() {
    let large = vec![7; 100_000];
    for (input, length) in [(&b""[..], 0), (&b"grown since"[..], 5), (&large[..], 70_000)] {
        let client = serve(move |seen, stream| {
            assert_eq!(seen.has("expect: 100-continue"), length > 65_536);
            assert_eq!(seen.body.len(), length);
            send(stream, "201 Created", "", PUT);
        });
        let options = PutOptions::default();
        client
            .put(
                &mut { input },
                Some(length as u64),
                &options,
                None,
                &mut |_, _| (),
            )
            .unwrap();
    }
}

#[test]
fn an_input_that_shrank_is_an_input_error() {
    let client = serve(|seen, _| panic!("a whole request arrived: {}", seen.line));
    let failure = client
        .put(
            &mut &b"hell"[..],
            Some(5),
            &PutOptions::default(),
            None,
            &mut |_, _| (),
        )
        .unwrap_err();
    assert!(matches!(failure, ClientError::Input(_)), "{failure}");
    assert_eq!(failure.exit_code(), exit::USAGE);
}

#[test]
fn refusals_keep_the_daemons_words_and_code() {
    let client = serve(|_, stream| {
        send(
            stream,
            "503 Service Unavailable",
            "",
            r#"{"error":"4 needed, 3 reachable","code":4,"retry":true}"#,
        );
    });
    let failure = client.stat("mutual1x").unwrap_err();
    assert_eq!(failure.to_string(), "4 needed, 3 reachable");
    assert_eq!(
        (failure.exit_code(), failure.retry()),
        (exit::UNRECOVERABLE, true)
    );

    let client = serve(|_, stream| send(stream, "507 Insufficient Storage", "", "full"));
    assert_eq!(client.status().unwrap_err().exit_code(), exit::NO_SPACE);
}

#[test]
fn links_are_one_path_segment() {
    let client = serve(|seen, stream| {
        assert_eq!(seen.line, "GET /v1/lookup/..%2F%3Fx%20y HTTP/1.1");
        send(
            stream,
            "404 Not Found",
            "",
            r#"{"error":"no such link","code":3,"retry":false}"#,
        );
    });
    assert_eq!(client.lookup("../?x y").unwrap_err().exit_code(), exit::NOT_FOUND);
}

#[test]
fn a_get_that_breaks_off_says_why_and_prints_events() {
    let client = serve(|seen, stream| {
        if seen.line.contains("after=0") {
            let body = r#"{"events":["CORRUPTED_BLOCK ab:1"],"next":1,"done":false,"error":null}"#;
            send(stream, "200 OK", "", body);
        } else if seen.line.contains("/events") {
            let error = r#"{"error":"4 needed, 3 reachable","code":4,"retry":true}"#;
            send(
                stream,
                "200 OK",
                "",
                &format!(r#"{{"events":[],"next":1,"done":true,"error":{error}}}"#),
            );
        } else {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123")
                .unwrap();
        }
    });
    for watched in [true, false] {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let sink: Arc<dyn Fn(&str) + Send + Sync> =
            Arc::new(move |line| kept.lock().unwrap().push(line.to_owned()));
        let events = Some(sink).filter(|_| watched);
        let mut output = Vec::new();
        let failure = client
            .get(
                "mutual1x",
                &GetOptions::default(),
                &mut output,
                events,
                &mut |_, _| (),
            )
            .unwrap_err();
        assert_eq!(output, b"0123");
        assert_eq!(
            failure.to_string(),
            "the daemon broke off after 4 of 10 bytes: 4 needed, 3 reachable"
        );
        assert_eq!(
            (failure.exit_code(), failure.retry()),
            (exit::UNRECOVERABLE, true)
        );
        assert_eq!(lines.lock().unwrap().len(), usize::from(watched));
    }
}

#[test]
fn ranges_are_asked_and_checked() {
    let client = serve(|seen, stream| {
        assert!(seen.has("range: bytes=3-"));
        assert!(seen.line.contains("?without=1&without=2 "), "{}", seen.line);
        send(stream, "200 OK", "", "whole");
    });
    let options = GetOptions {
        range: Some(ByteRange { first: 3, last: None }),
        without: vec![1, 2],
        version: None,
        at_ms: None,
    };
    let failure = client
        .get("mutual1x", &options, &mut Vec::new(), None, &mut |_, _| ())
        .unwrap_err();
    assert!(matches!(failure, ClientError::Unexpected { .. }), "{failure}");
}

#[test]
fn heads_carry_the_name_and_errors_their_reason() {
    let client = serve(|seen, stream| {
        if seen.line.starts_with("HEAD /v1/files/good") {
            let headers = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\
                           x-mutualstore-name: a%2Fb%C3%A9\r\n\r\n";
            stream.write_all(headers.as_bytes()).unwrap();
        } else if seen.line.starts_with("HEAD") {
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n")
                .unwrap();
        } else {
            send(
                stream,
                "404 Not Found",
                "",
                r#"{"error":"no such file","code":3,"retry":false}"#,
            );
        }
    });
    let head = client.head("good").unwrap();
    assert_eq!(
        head,
        FileHead {
            size_bytes: Some(7),
            name: Some("a/bé".to_owned())
        }
    );
    assert_eq!(client.head("bad").unwrap_err().to_string(), "no such file");
}

#[test]
fn nobody_there_is_exit_6() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{free}"), "secret");
    let failures = [
        client.status().unwrap_err(),
        client
            .get(
                "x",
                &GetOptions::default(),
                &mut Vec::new(),
                Some(Arc::new(|_| ())),
                &mut |_, _| (),
            )
            .unwrap_err(),
        client
            .put(&mut &b""[..], None, &PutOptions::default(), None, &mut |_, _| ())
            .unwrap_err(),
        Client::open(Path::new("/nonexistent")).unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.exit_code(), exit::NO_DAEMON, "{failure}");
    }
}

#[test]
fn a_data_directory_names_the_daemon_that_answers() {
    let own = std::process::id();
    let client = serve(move |_, stream| {
        let identity = format!(r#"{{"peer":"A","pid":{own},"started":7}}"#);
        send(stream, "200 OK", "", &identity);
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), "secret\n").unwrap();
    let write = |pid: u32, peer: &str, started: u64| {
        let text = format!(
            r#"{{"pid":{pid},"peer":"{peer}","api":"{}","listen":[],"started":{started}}}"#,
            client.base()
        );
        fs::write(dir.path().join("daemon.json"), text).unwrap();
    };
    write(own, "A", 7);
    assert_eq!(Client::open(dir.path()).unwrap().base(), client.base());
    for (pid, peer, started) in [(own, "B", 7), (own, "A", 8), (u32::MAX, "A", 7)] {
        write(pid, peer, started);
        assert_eq!(Client::open(dir.path()).unwrap_err().exit_code(), exit::NO_DAEMON);
    }
}

#[test]
fn percent_encoding_round_trips() {
    for text in ["", "plain-._~", "a/b c%?&=#", "é\u{1f980}\n"] {
        assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
    }
    assert_eq!(decoded("%4"), None);
    assert_eq!(decoded("%zz"), None);
    assert_eq!(decoded("%ff"), None);
}

#[test]
fn list_is_asked_for_in_the_largest_pages() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let client = serve(move |request, stream| {
        seen.lock().unwrap().push(request.line.clone());
        let next = if request.line.contains("after=") {
            "null"
        } else {
            "\"9\""
        };
        send(stream, "200 OK", "", &format!(r#"{{"files":[],"next":{next}}}"#));
    });
    client.list(Some("*.txt"), false).unwrap();
    let expected =
        ["", "&after=9"].map(|after| format!("GET /v1/files?limit=10000&pattern=%2A.txt{after} HTTP/1.1"));
    assert_eq!(*asked.lock().unwrap(), expected);
}
