//! `dig`, as an independent client.

use std::net::SocketAddr;
use std::path::Path;

use crate::program;

/// What dig has printed.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `NOERROR`, or another; empty without a reply.
    pub status: String,
    /// With spaces between.
    pub flags: String,
    /// Data of the records in the answer section.
    pub records: Vec<String>,
    /// Of the first record.
    pub ttl: Option<u32>,
    pub text: String,
}

/// Asks with these words of dig's.
pub fn ask(at: SocketAddr, words: &[&str]) -> Answer {
    let (server, port) = (format!("@{}", at.ip()), at.port().to_string());
    let mut arguments = vec![server.as_str(), "-p", &port, "+tries=1", "+time=10"];
    arguments.extend(words);
    Answer::read(program::tool("dig", &arguments, Path::new("/")).out)
}

impl Answer {
    pub fn read(text: String) -> Self {
        let after = |mark: &str, end: char| {
            let rest = text.split_once(mark).map(|(_, rest)| rest).unwrap_or_default();
            rest.split(end).next().unwrap_or_default().trim().to_owned()
        };
        let section = text.split_once(";; ANSWER SECTION:\n").map(|(_, rest)| rest).unwrap_or_default();
        let lines: Vec<&str> = section.lines().take_while(|line| !line.is_empty()).collect();
        // Owner, TTL, class, type, data.
        let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let records = lines.iter().map(|line| fields(line)[4..].join(" ")).collect();
        let ttl = lines.first().and_then(|line| fields(line)[1].parse().ok());
        Self { status: after("status: ", ','), flags: after(";; flags: ", ';'), records, ttl, text }
    }
}
