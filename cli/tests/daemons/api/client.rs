//! A client that says exactly what a test wants, byte by byte.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::common::{LIMIT, Net};

/// Where a peer's API is, and the token it wants.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

/// An answer as it came.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads up to the end of the connection.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
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
        Self {
            status,
            headers: headers.collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Api {
    pub(crate) fn of(net: &Net, index: usize) -> Self {
        let peer = &net.peers()[index];
        let address = peer["api"].as_str().unwrap().strip_prefix("http://").unwrap();
        let token = fs::read_to_string(net.data_dir(index).join("token")).unwrap();
        Self {
            address: address.parse().unwrap(),
            token: token.trim().to_owned(),
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// The head of a request with the token.
    pub(crate) fn head(&self, line: &str, headers: &[&str]) -> String {
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
    pub(crate) fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut stream)
    }

    pub(crate) fn ask(&self, line: &str, headers: &[&str]) -> Answer {
        let headers: Vec<&str> = headers.iter().copied().chain(["Connection: close"]).collect();
        self.raw(&self.head(line, &headers))
    }
}
