//! The HTTP API under slow, idle and many clients, and its conditional and range requests.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{LIMIT, Net, eventually, mutualstore, noise, say};

/// Where a peer's API is, and the token it wants.
struct Api {
    address: SocketAddr,
    token: String,
}

/// An answer as it came.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let named = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Api {
    fn of(net: &Net, index: usize) -> Self {
        let peer = &net.peers()[index];
        let address = peer["api"].as_str().unwrap().strip_prefix("http://").unwrap();
        let token = fs::read_to_string(net.data_dir(index).join("token")).unwrap();
        Self {
            address: address.parse().unwrap(),
            token: token.trim().to_owned(),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// The head of a request with the token.
    fn head(&self, line: &str, headers: &[&str]) -> String {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let mut lines = vec![
            format!("{line} HTTP/1.1"),
            format!("Host: {}", self.address),
            bearer,
        ];
        lines.extend(headers.iter().map(|header| (*header).to_owned()));
        lines.join("\r\n") + "\r\n\r\n"
    }

    /// Sends a request as it is and answers how it was answered, up to the end of the connection.
    fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        parse(&mut stream)
    }

    fn ask(&self, line: &str, headers: &[&str]) -> Answer {
        let headers: Vec<&str> = headers.iter().copied().chain(["Connection: close"]).collect();
        self.raw(&self.head(line, &headers))
    }
}

fn parse(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_owned(), value.trim().to_owned())
    });
    Answer {
        status,
        headers: headers.collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

/// The bytes of `text` beginning at `first`.
type Expected<'a> = (u16, Option<&'a str>, &'a [u8]);

#[test]
fn conditional_and_range_requests_are_answered_as_rfc_9110_says() {
    let net = Net::up(1, &[]);
    let text = b"0123456789abcdefghijklmnopqrstuvwxyz".as_slice();
    let link = net.put(0, text, &["--name", "alphabet.txt"]);
    let api = Api::of(&net, 0);
    let line = format!("GET /v1/files/{link}");
    let whole = api.ask(&line, &[]);
    let etag = whole.header("etag").unwrap();
    let date = whole.header("last-modified").unwrap();
    let (same, weak) = (format!("\"x\", {etag}"), format!("W/{etag}"));
    let all: Expected = (200, None, text);
    let first: Expected = (206, Some("bytes 0-9/36"), &text[..10]);
    let outside: Expected = (416, Some("bytes */36"), b"{");
    let unmodified: Expected = (304, None, b"");
    let failed: Expected = (412, None, b"{");
    let of = |name: &str, value: &str| format!("{name}: {value}");
    let range = || of("Range", "bytes=0-9");
    let table: Vec<(Vec<String>, Expected)> = vec![
        (vec![], all),
        (vec![range()], first),
        (vec![of("Range", "Bytes=0-9")], first),
        (vec![of("range", "BYTES=00-009")], first),
        (
            vec![of("Range", "bytes=30-")],
            (206, Some("bytes 30-35/36"), &text[30..]),
        ),
        (
            vec![of("Range", "bytes=-6")],
            (206, Some("bytes 30-35/36"), &text[30..]),
        ),
        (
            vec![of("Range", "bytes=-600")],
            (206, Some("bytes 0-35/36"), text),
        ),
        (vec![of("Range", "bytes=0-")], (206, Some("bytes 0-35/36"), text)),
        (
            vec![of("Range", "bytes=30-18446744073709551616")],
            (206, Some("bytes 30-35/36"), &text[30..]),
        ),
        (vec![of("Range", "bytes=36-")], outside),
        (vec![of("Range", "bytes=18446744073709551616-")], outside),
        (vec![of("Range", "bytes=99999999999999999999999999-")], outside),
        (vec![of("Range", "bytes=-0")], outside),
        (vec![of("Range", "bytes=+0-1")], all),
        (vec![of("Range", "bytes=5-2")], all),
        (vec![of("Range", "bytes=0 - 1")], all),
        (vec![of("Range", "bytes=a-b")], all),
        (vec![of("Range", "bytes=0-1,4-5")], all),
        (vec![of("Range", "bytes=0-1"), of("Range", "bytes=0-1")], all),
        (vec![of("Range", "lines=0-1")], all),
        (vec![range(), of("If-Range", etag)], first),
        (vec![range(), of("If-Range", date)], first),
        (vec![range(), of("If-Range", "\"other\"")], all),
        (vec![range(), of("If-Range", &weak)], all),
        (
            vec![range(), of("If-Range", "Thu, 01 Jan 1970 00:00:00 GMT")],
            all,
        ),
        (vec![of("If-Match", etag)], all),
        (vec![of("If-Match", "*")], all),
        (vec![of("If-Match", &same)], all),
        (vec![of("If-Match", "\"x\""), of("If-Match", etag)], all),
        (vec![of("If-Match", "\"x\"")], failed),
        (vec![of("If-Match", &weak)], failed),
        (vec![of("If-Match", "\"x\""), range()], failed),
        (vec![of("If-None-Match", etag)], unmodified),
        (vec![of("If-None-Match", &same)], unmodified),
        (vec![of("If-None-Match", "*")], unmodified),
        (vec![of("If-None-Match", &weak)], unmodified),
        (
            vec![of("If-None-Match", "\"x\""), of("If-None-Match", etag)],
            unmodified,
        ),
        (vec![of("If-None-Match", "\"x\"")], all),
        (vec![of("If-None-Match", etag), range()], unmodified),
        (vec![of("If-Modified-Since", date)], unmodified),
        (
            vec![of("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")],
            all,
        ),
        (vec![of("If-Modified-Since", "never")], all),
        (
            vec![of("If-Modified-Since", date), of("If-None-Match", "\"x\"")],
            all,
        ),
        (vec![of("If-Unmodified-Since", date)], all),
        (
            vec![of("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")],
            failed,
        ),
        (
            vec![
                of("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
                of("If-Match", etag),
            ],
            all,
        ),
    ];
    for (headers, (status, content_range, body)) in table {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = api.ask(&line, &headers);
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (status, content_range),
            "{headers:?}"
        );
        if body == b"{" {
            assert!(
                answer.json()["error"].is_string() && answer.json()["code"] == 2,
                "{headers:?}"
            );
        } else {
            assert_eq!(answer.body, body, "{headers:?}");
        }
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{headers:?}"
        );
        if status < 400 {
            assert_eq!(answer.header("etag"), Some(etag), "{headers:?}");
        }
        if status == 304 {
            assert_eq!(answer.header("content-type"), None, "{headers:?}");
        } else if status < 400 {
            assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{headers:?}");
            assert_eq!(
                answer.header("content-length"),
                Some(body.len().to_string().as_str()),
                "{headers:?}"
            );
        }
        // HEAD says the same of the whole; ranges are for GET.
        let head = api.ask(&line.replace("GET", "HEAD"), &headers);
        let expected = if matches!(status, 206 | 416) { 200 } else { status };
        assert_eq!(
            (head.status, head.body.as_slice()),
            (expected, b"".as_slice()),
            "HEAD {headers:?}"
        );
        if expected == 200 {
            assert_eq!(head.header("content-length"), Some("36"), "HEAD {headers:?}");
            for name in [
                "etag",
                "last-modified",
                "content-type",
                "content-disposition",
                "accept-ranges",
            ] {
                assert_eq!(head.header(name), whole.header(name), "HEAD {headers:?}");
            }
        }
    }
    let empty = net.put(0, b"", &["--name", "nothing"]);
    let line = format!("GET /v1/files/{empty}");
    for (range, status) in [
        ("bytes=-1", 200),
        ("bytes=0-", 416),
        ("bytes=-0", 416),
        ("bytes=0-0", 416),
    ] {
        let answer = api.ask(&line, &[&format!("Range: {range}")]);
        assert_eq!(answer.status, status, "{range} of nothing");
        let expected = (status == 416).then_some("bytes */0");
        assert_eq!(answer.header("content-range"), expected, "{range} of nothing");
    }
}

#[test]
fn tools_of_others_resume_a_download() {
    let net = Net::up(1, &[]);
    let bytes = noise(1, 300_000);
    let link = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let (url, bearer) = (
        format!("http://{}/v1/files/{link}", api.address),
        format!("Authorization: bearer {}", api.token),
    );
    let run = |command: &mut Command| -> Option<Output> {
        match command.output() {
            // Only where the tool is installed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            output => Some(output.unwrap()),
        }
    };
    let part = net.file("part");
    for length in [0, 1, 123_456, bytes.len()] {
        fs::write(&part, &bytes[..length]).unwrap();
        let resumed = Command::new("curl")
            .args(["-sS", "-C", "-", "-H", &bearer, "-o"])
            .arg(&part)
            .arg(&url)
            .output();
        if matches!(&resumed, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        assert!(
            fs::read(&part).unwrap() == bytes,
            "curl, {length} bytes there: {resumed:?}"
        );
    }
    if let Some(output) = run(Command::new("curl").args(["-sS", "-r", "100-199", "-H", &bearer, &url])) {
        assert!(output.stdout == bytes[100..200], "{output:?}");
    }
    fs::write(&part, &bytes[..123_456]).unwrap();
    let mut wget = Command::new("wget");
    wget.args(["-q", "-c", "--header", &bearer, "-O"])
        .arg(&part)
        .arg(&url);
    if let Some(output) = run(&mut wget) {
        assert!(fs::read(&part).unwrap() == bytes, "wget: {output:?}");
    }
}

#[test]
fn refusals_name_what_is_wanted_and_never_repeat_a_link() {
    let net = Net::up(1, &[]);
    let link = net.put(0, &noise(2, 1000), &["--name", "grüße \"a\"\n.html"]);
    let api = Api::of(&net, 0);
    for (line, status) in [
        (format!("GET /v2/files/{link}"), 404),
        (format!("GET /{link}"), 404),
        (format!("POST /v1/files/{link}"), 405),
        (format!("PATCH /v1/files/{link}/stat"), 405),
        (format!("GET /v1/lookup/{link}x"), 400),
        (format!("GET /v1/files/{link}x"), 400),
        (format!("GET /v1/files/{link}?without={link}"), 400),
        (format!("GET /v1/files/{link}?{link}"), 400),
        (format!("POST /v1/forget/{link}"), 404),
        (format!("POST /v1/repair?peer={link}"), 404),
        (format!("PUT /v1/files?code={link}"), 400),
        (format!("PUT /v1/files?{link}=1"), 400),
        (format!("GET /v1/ring?walk={link}"), 400),
        ("GET /v1/files/%ff".to_owned(), 400),
    ] {
        let answer = api.ask(&line, &["Content-Length: 0"]);
        assert_eq!(answer.status, status, "{line}");
        let (text, json) = (String::from_utf8(answer.body.clone()).unwrap(), answer.json());
        assert!(!text.contains(&link), "{line}: {text}");
        assert!(
            json["error"].is_string() && json["code"].is_u64() && json["retry"].is_boolean(),
            "{line}: {text}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"), "{line}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{line}");
    }
    let host = format!("Host: {}", api.address);
    let get = |headers: &[&str]| {
        let head = headers.join("\r\n");
        api.raw(&format!(
            "GET /v1/files/{link} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n"
        ))
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let answer = get(&[&host, &format!("authorization: {scheme} {}", api.token)]);
        assert_eq!(answer.status, 200, "{scheme}");
        assert_eq!(
            answer.header("content-disposition"),
            Some(
                "attachment; filename=\"gr__e _a__.html\"; filename*=UTF-8''gr%C3%BC%C3%9Fe%20%22a%22_.html"
            )
        );
    }
    let token = format!("Authorization: Bearer {}", api.token);
    let wrong = format!("Authorization: Bearer {}0", &api.token[1..]);
    let basic = format!("Authorization: Basic {}", api.token);
    for headers in [
        vec![&host],
        vec![&host, &wrong],
        vec![&host, &basic],
        vec![&host, &token, &token],
    ] {
        let headers: Vec<&str> = headers.into_iter().map(String::as_str).collect();
        let answer = get(&headers);
        assert_eq!(
            (answer.status, answer.json()["code"].as_u64()),
            (401, Some(8)),
            "{headers:?}"
        );
        assert!(
            answer.header("www-authenticate").unwrap().starts_with("Bearer"),
            "{headers:?}"
        );
    }
    let own = format!("Origin: http://{}", api.address);
    for (headers, status) in [
        (vec!["Host: localhost:1"], 200),
        (vec!["Host: [::1]:1"], 200),
        (vec![host.as_str(), own.as_str()], 200),
        (vec!["Host: rebound.example.org"], 403),
        (vec!["Host: 10.0.0.1"], 403),
        (vec![&host, "Origin: http://example.org"], 403),
        (vec![&host, "Origin: null"], 403),
        (vec![&host, "Host: example.org"], 400),
    ] {
        let headers: Vec<&str> = headers.into_iter().chain([token.as_str()]).collect();
        assert_eq!(get(&headers).status, status, "{headers:?}");
    }
    let log = fs::read_to_string(net.data_dir(0).join("log")).unwrap();
    assert!(!log.contains(&link), "{log}");
}

#[test]
fn api_beyond_loopback_needs_a_word() {
    let net = Net::up(1, &[]);
    let dir = net.file("open");
    let daemon = |api: &str| {
        let place = dir.to_str().unwrap();
        say(["daemon", "--data-dir", place, "--capacity", "64MiB", "--api", api])
    };
    for api in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = daemon(api).fails(2);
        assert!(said.stderr.contains("--api-insecure"), "{}", said.stderr);
    }
    assert!(!dir.join("daemon.json").exists());
    let mut child = mutualstore()
        .args([
            "daemon",
            "--capacity",
            "64MiB",
            "--api",
            "0.0.0.0:0",
            "--api-insecure",
        ])
        .args([
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--exit-on-stdin-close",
            "--data-dir",
        ])
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let findings = eventually("doctor answers", || {
        let said = say(["doctor", "--json", "--data-dir", dir.to_str().unwrap()]);
        (said.code == 0).then(|| said.json()["findings"].as_array().unwrap().clone())
    });
    let warned = findings
        .iter()
        .any(|finding| finding["check"] == "api" && finding["state"] == "warning");
    assert!(warned, "{findings:?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// How long a command takes that must succeed.
#[track_caller]
fn time_of(net: &Net, words: &[&str]) -> Duration {
    let begun = Instant::now();
    net.run(0, words).ok();
    begun.elapsed()
}

/// Whether the other side has ended this connection.
fn is_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

#[test]
fn connections_that_say_nothing_keep_nobody_out_and_end() {
    let net = Net::up(1, &[]);
    let bytes = noise(3, 100_000);
    let link = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let usual = time_of(&net, &["ls"]) + time_of(&net, &["get", &link, "-o", "/dev/null"]);
    let begun = Instant::now();
    let half = api.head("GET /v1/files", &[]);
    // As many as a test may have open where the limit is 1,024 files.
    let silent: Vec<TcpStream> = (0..700)
        .map(|number| {
            let mut stream = api.connect();
            match number % 3 {
                0 => {}
                1 => stream.write_all(&half.as_bytes()[..half.len() - 4]).unwrap(),
                _ => stream.write_all(b"GET /health HT").unwrap(),
            }
            stream
        })
        .collect();
    let crowded = time_of(&net, &["ls"]) + time_of(&net, &["get", &link, "-o", "/dev/null"]);
    assert!(
        crowded < 10 * usual + Duration::from_secs(1),
        "{crowded:?}, usually {usual:?}"
    );
    // Some were ended to make room; the others still have time.
    let ended = silent.iter().filter(|stream| is_ended(stream)).count();
    assert!(ended >= 400, "{ended} of {} were ended", silent.len());
    eventually("the others are ended", || {
        silent.iter().all(|stream| is_ended(stream)).then_some(())
    });
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "they had time to say something"
    );
}

#[test]
fn stalled_and_slow_bodies_keep_nobody_out_and_hold() {
    let net = Net::up(1, &[]);
    let bytes = noise(4, 200_000);
    let api = Api::of(&net, 0);
    let usual = time_of(&net, &["ls"]);
    let head = api.head(
        "PUT /v1/files?name=slow",
        &["Content-Length: 200000", "Connection: close"],
    );
    let mut bodies: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut stream = api.connect();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&bytes[..150_000]).unwrap();
            stream
        })
        .collect();
    let crowded = time_of(&net, &["ls"]);
    assert!(
        crowded < 10 * usual + Duration::from_secs(1),
        "{crowded:?}, usually {usual:?}"
    );
    let put = net.put(0, &bytes, &[]);
    net.expect(0, &put, &bytes);
    // A pause longer than headers may take.
    thread::sleep(Duration::from_secs(13));
    let mut last = bodies.pop().unwrap();
    last.write_all(&bytes[150_000..]).unwrap();
    let answer = parse(&mut last);
    assert_eq!(answer.status, 201);
    net.expect(0, answer.json()["link"].as_str().unwrap(), &bytes);
    assert!(bodies.iter().all(|stream| !is_ended(stream)), "they may go on");
    // What a client without a token sends is not waited for.
    let mut stranger = api.connect();
    let request = format!(
        "PUT /v1/files HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\n\r\n",
        api.address
    );
    stranger.write_all(request.as_bytes()).unwrap();
    assert_eq!(parse(&mut stranger).status, 401);
    // There are slots for 128 bodies, fewer where few files may be open: those that stand still longest make room.
    let more = (0..150).map(|_| {
        let mut stream = api.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    });
    bodies.extend(more.collect::<Vec<_>>());
    // What has just begun counts as at work for a second.
    let another = eventually("one more file is stored", || {
        let said = net.run(0, &["put", net.file("to-put").to_str().unwrap()]);
        (said.code == 0).then(|| said.word())
    });
    net.expect(0, &another, &bytes);
    assert!(
        bodies[..29].iter().any(is_ended),
        "those that stood still longest made room"
    );
    // A daemon with all of them open stops at once.
    let pid = net.peers()[0]["pid"].to_string();
    let begun = Instant::now();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    eventually("the daemon stops", || {
        bodies.iter().all(|stream| is_ended(stream)).then_some(())
    });
    assert!(begun.elapsed() < 10 * Duration::from_secs(5));
    net.start(0);
    let listed = net.run(0, &["ls", "--json"]).ok().json()["files"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(listed, 3, "what was cut off is not there");
}

/// Resident memory of a peer, MiB.
fn resident(net: &Net, index: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", net.peers()[index]["pid"])).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn readers_that_take_nothing_hold_no_memory_and_go_on_later() {
    let net = Net::up(4, &["--", "--read-ahead", "16MiB"]);
    let bytes = noise(5, 40 << 20);
    let link = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let before = resident(&net, 0);
    let request = api.head(&format!("GET /v1/files/{link}"), &["Connection: close"]);
    let mut readers: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = api.connect();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    for stream in &readers {
        let answered = eventually("every reader has an answer", || {
            let mut start = [0; 15];
            (stream.peek(&mut start).unwrap() == 15).then_some(start)
        });
        assert_eq!(&answered, b"HTTP/1.1 200 OK");
    }
    // Somebody who reads is not kept waiting by those who do not.
    net.expect(0, &link, &bytes);
    // 60 blocks alone would be 240 MiB.
    eventually("memory while they hang", || {
        (resident(&net, 0) < before + 120).then_some(())
    });
    let mut one = readers.pop().unwrap();
    assert!(parse(&mut one).body == bytes, "it goes on where it stopped");
    drop(readers);
    eventually("memory is given back", || {
        (resident(&net, 0) < before + 60).then_some(())
    });
}

/// A relay to a peer's API that cuts the n-th connection with a file after so many bytes of the answer, for each n
/// of `cuts`.
fn cutting_relay(api: SocketAddr, cuts: Vec<usize>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let (cuts, count) = (Arc::new(cuts), Arc::clone(&made));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut client, cuts, count) = (stream.unwrap(), Arc::clone(&cuts), Arc::clone(&count));
            thread::spawn(move || {
                let mut server = TcpStream::connect(api).unwrap();
                let mut head = [0; 4096];
                let read = client.read(&mut head).unwrap();
                // One request a connection, so that every one is seen.
                let close = b"Connection: close\r\n\r\n";
                server.write_all(&[&head[..read - 2], close].concat()).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || io::copy(&mut from, &mut to));
                let is_file = head.starts_with(b"GET /v1/files/");
                let cut = is_file
                    .then(|| cuts.get(count.fetch_add(1, Ordering::SeqCst)))
                    .flatten();
                let limit = cut.map_or(u64::MAX, |bytes| *bytes as u64);
                // Either side may end it.
                drop(io::copy(&mut (&mut server).take(limit), &mut client));
                drop(client.shutdown(std::net::Shutdown::Both));
                drop(server.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (address, made)
}

#[test]
fn get_that_is_cut_goes_on_where_it_stopped() {
    let net = Net::up(1, &[]);
    let bytes = noise(6, 5_000_000);
    let link = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let token = net.data_dir(0).join("token");
    let through = |cuts: &[usize], words: &[&str]| {
        let (relay, made) = cutting_relay(api.address, cuts.to_vec());
        let output = mutualstore()
            .args(["get", &link, "--api", &format!("http://{relay}"), "--token-file"])
            .arg(&token)
            .args(words)
            .output()
            .unwrap();
        (output, made.load(Ordering::SeqCst))
    };
    let out = net.file("out");
    let (output, asked) = through(&[1_000_000, 2_000_000, 700], &["-o", out.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        fs::read(&out).unwrap() == bytes && asked == 4,
        "asked {asked} times"
    );
    let (output, asked) = through(&[3_000_000], &["-o", "-"]);
    assert!(
        output.status.success() && output.stdout == bytes && asked == 2,
        "asked {asked} times"
    );
    let (output, asked) = through(&[300_000, 300_000], &["-o", "-", "--range", "1000000-1999999"]);
    assert!(output.status.success() && output.stdout == bytes[1_000_000..2_000_000] && asked == 3);
    // Cut each time before the first byte, it gives up.
    let (output, asked) = through(&[&[1_000_000][..], &[100; 100]].concat(), &["-o", "-"]);
    assert!(
        !output.status.success() && (2..20).contains(&asked),
        "asked {asked} times"
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}
