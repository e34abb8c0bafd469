//! The HTTP API under slow, idle and many clients, and what it refuses; [`conditional`]: its conditional and
//! range requests; [`texts`]: what it says of bad queries.

pub(crate) mod client;
mod conditional;
mod texts;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::client::{Answer, Api};
use crate::common::{Net, eventually, mutualstore, noise, say};

#[test]
fn refusal_of_any_kind_is_json_and_never_repeats_a_link() {
    let net = Net::up(1, &[]);
    let link = net.put(0, &noise(2, 1000), &[]);
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
    let log = fs::read_to_string(net.data_dir(0).join("log")).unwrap();
    assert!(!log.contains(&link), "{log}");
}

/// A request for a file with exactly these headers.
fn with_headers(api: &Api, link: &str, headers: &[&str]) -> Answer {
    let head = headers.join("\r\n");
    api.raw(&format!(
        "GET /v1/files/{link} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n"
    ))
}

#[test]
fn download_wants_one_bearer_token_and_comes_with_a_harmless_name() {
    let net = Net::up(1, &[]);
    let link = net.put(0, &noise(2, 1000), &["--name", "grüße \"a\"\n.html"]);
    let api = Api::of(&net, 0);
    let host = format!("Host: {}", api.address);
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let bearer = format!("authorization: {scheme} {}", api.token);
        let answer = with_headers(&api, &link, &[&host, &bearer]);
        assert_eq!(answer.status, 200, "{scheme}");
        assert_eq!(
            answer.header("content-disposition"),
            Some(
                "attachment; filename=\"gr__e _a__.html\"; filename*=UTF-8''gr%C3%BC%C3%9Fe%20%22a%22_.html"
            )
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let token = format!("Authorization: Bearer {}", api.token);
    let wrong = format!("Authorization: Bearer {}0", &api.token[1..]);
    let basic = format!("Authorization: Basic {}", api.token);
    for tokens in [vec![], vec![&wrong], vec![&basic], vec![&token, &token]] {
        let headers: Vec<&str> = [&host].into_iter().chain(tokens).map(String::as_str).collect();
        let answer = with_headers(&api, &link, &headers);
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
}

#[test]
fn page_of_another_origin_and_foreign_host_are_refused() {
    let net = Net::up(1, &[]);
    let link = net.put(0, &noise(2, 1000), &[]);
    let api = Api::of(&net, 0);
    let token = format!("Authorization: Bearer {}", api.token);
    let host = format!("Host: {}", api.address);
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
        assert_eq!(with_headers(&api, &link, &headers).status, status, "{headers:?}");
    }
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
        silent.iter().all(is_ended).then_some(())
    });
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "they had time to say something"
    );
}

/// So many puts whose body stops after `part`, of 200,000 bytes.
fn stalled(api: &Api, count: usize, part: &[u8]) -> Vec<TcpStream> {
    let head = api.head(
        "PUT /v1/files?name=slow",
        &["Content-Length: 200000", "Connection: close"],
    );
    let stall = |_| {
        let mut stream = api.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(part).unwrap();
        stream
    };
    (0..count).map(stall).collect()
}

#[test]
fn stalled_bodies_keep_nobody_out_and_may_go_on() {
    let net = Net::up(1, &[]);
    let bytes = noise(4, 200_000);
    let api = Api::of(&net, 0);
    let usual = time_of(&net, &["ls"]);
    let mut bodies = stalled(&api, 30, &bytes[..150_000]);
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
    let answer = Answer::read(&mut last);
    assert_eq!(answer.status, 201);
    net.expect(0, answer.json()["link"].as_str().unwrap(), &bytes);
    assert!(
        bodies.iter().all(|stream| !is_ended(stream)),
        "the others may go on too"
    );
    // What a client without a token sends is not waited for.
    let mut stranger = api.connect();
    let request = format!(
        "PUT /v1/files HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\n\r\n",
        api.address
    );
    stranger.write_all(request.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stranger).status, 401);
}

#[test]
fn bodies_beyond_the_slots_end_those_that_stood_still_longest() {
    let net = Net::up(1, &[]);
    let bytes = noise(4, 200_000);
    let put = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let first = stalled(&api, 20, &bytes[..1000]);
    // What has just begun counts as at work for a second.
    thread::sleep(Duration::from_millis(1500));
    // There are slots for 128, fewer where few files may be open.
    let later = stalled(&api, 150, b"");
    eventually("one more file is stored", || {
        let said = net.run(0, &["put", "--unnamed", net.file("to-put").to_str().unwrap()]);
        (said.code == 0).then_some(())
    });
    assert!(first.iter().any(is_ended), "the first made room");
    net.expect(0, &put, &bytes);
    // A daemon with all of them open stops at once.
    let pid = net.peers()[0]["pid"].to_string();
    let begun = Instant::now();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    eventually("the daemon stops", || later.iter().all(is_ended).then_some(()));
    assert!(begun.elapsed() < 10 * Duration::from_secs(5));
    net.start(0);
    let listed = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(
        listed["files"].as_array().unwrap().len(),
        2,
        "what was cut off is not there"
    );
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
    assert!(
        Answer::read(&mut one).body == bytes,
        "it goes on where it stopped"
    );
    drop(readers);
    eventually("memory is given back", || {
        (resident(&net, 0) < before + 60).then_some(())
    });
}

/// A relay to a peer's API that cuts the n-th connection with a file after so many bytes of the answer, for
/// each n of `cuts`.
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
