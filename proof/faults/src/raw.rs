// SPDX-License-Identifier: Apache-2.0

//! HTTP/1.1 by hand: one connection to one node, whatever is to be sent on it, and answers as they come. A typed client would follow
//! hints to other nodes, keep to the contract, and always read what it asked for.

use std::net::SocketAddrV4;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::failure::{Failure, Result};

/// Longest answer that is read: a page of a scan and more.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Most header fields, and bytes of one line.
const FIELDS_MAX: usize = 64;
const LINE_BYTES_MAX: u64 = 16 << 10;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    stream: BufReader<TcpStream>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn open(to: SocketAddrV4) -> Result<Wire> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream: BufReader::new(stream) })
    }

    /// Connects with as little room for answers as the system allows.
    pub async fn open_narrow(to: SocketAddrV4) -> Result<Wire> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1)?;
        let stream = socket.connect(to.into()).await?;
        Ok(Wire { stream: BufReader::new(stream) })
    }

    /// Ends the connection with a reset: clients that come and go all the time would use up the system's ports otherwise.
    pub fn vanish(self) {
        // What is not reset is closed.
        let _ = self.stream.get_ref().set_zero_linger();
    }

    /// Sends bytes, whatever they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes).await?)
    }

    /// Asks and reads the answer.
    pub async fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer> {
        self.send(&request(method, target, body)).await?;
        self.answer().await
    }

    /// Reads one answer that says its length.
    pub async fn answer(&mut self) -> Result<Answer> {
        let odd = |what: &str, line: &str| Failure::new(format_args!("{what}: {line:?}"));
        let status = self.line().await?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer =
            Answer { status: code.ok_or_else(|| odd("no status line", &status))?, ..Answer::default() };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| odd("no header field", &line))?;
            if answer.fields.len() >= FIELDS_MAX {
                return Err(odd("too many header fields", &line));
            }
            answer.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = answer.number("content-length").unwrap_or(0) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(Failure::new(format_args!("an answer of {length} bytes")));
        }
        answer.body = vec![0; length];
        self.stream.read_exact(&mut answer.body).await?;
        Ok(answer)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(Failure::new("the connection ended within an answer")),
        }
    }
}

impl Answer {
    /// A header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A header field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// The bytes of a request.
pub fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(method, target, body.len() as u64);
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a request's head that announces a body.
pub fn head(method: &str, target: &str, body_bytes: u64) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nhost: node\r\ncontent-length: {body_bytes}\r\n\r\n").into_bytes()
}
