//! curl, both ways, with every kind of body. The server is our own: no small one of Debian's takes chunks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use test_fixtures::lab;
use test_fixtures::netns::Netns;

use crate::effort::sized;
use crate::site::{MAP_GUEST, OUTSIDE_PORT, Site, Way, call, call_with};
use crate::stream::{beginning, hash_of};

/// The stream that bodies are made of.
pub(crate) const KEY: u64 = 9;

/// Serve for ever: `/bytes/N`, `/chunked/N` and `/until-end/N` give N bytes, a POST or PUT gets the hash of its body.
pub(crate) fn serve(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || conversation(&stream).ok());
        }
    });
}

fn conversation(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let hash;
        let (kind, body) = match request.path.split('/').collect::<Vec<_>>()[..] {
            _ if request.method != "GET" => {
                hash = hash_of(&request.body(&mut reader, stream)?);
                ("bytes", hash.into_bytes())
            }
            ["", kind, bytes] => (kind, beginning(KEY, bytes.parse()?)),
            _ => bail!("unexpected {}", request.path),
        };
        if !respond(stream, kind, &body)? {
            break;
        }
    }
    Ok(())
}

/// Whether there may be another request.
fn respond(mut stream: &TcpStream, kind: &str, body: &[u8]) -> Result<bool> {
    stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
    match kind {
        "chunked" => {
            stream.write_all(b"Transfer-Encoding: chunked\r\n\r\n")?;
            for chunk in body.chunks(7_777) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        "until-end" => {
            stream.write_all(b"Connection: close\r\n\r\n")?;
            stream.write_all(body)?;
        }
        _ => {
            write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(body)?;
        }
    }
    Ok(kind != "until-end")
}

struct Request {
    method: String,
    path: String,
    length: Option<usize>,
    expects: bool,
}

impl Request {
    fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split(' ');
        let mut word = || words.next().map(ToOwned::to_owned).context("no request");
        let mut request = Self {
            method: word()?,
            path: word()?,
            length: None,
            expects: false,
        };
        loop {
            line.clear();
            ensure!(from.read_line(&mut line)? > 0, "no end of the head");
            let field = line.trim_end().to_ascii_lowercase();
            match field.split_once(": ") {
                None => return Ok(Some(request)),
                Some(("content-length", length)) => request.length = Some(length.parse()?),
                Some(("expect", _)) => request.expects = true,
                Some(_) => {}
            }
        }
    }

    /// So many bytes, or chunks.
    fn body(&self, from: &mut impl BufRead, mut stream: &TcpStream) -> Result<Vec<u8>> {
        if self.expects {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        if let Some(length) = self.length {
            from.take(length as u64).read_to_end(&mut body)?;
            return Ok(body);
        }
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim_end(), 16).context("a chunk's length")?;
            from.by_ref().take(length as u64).read_to_end(&mut body)?;
            from.read_line(&mut line)?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// Answer one request of each connection, after all have come.
pub(crate) fn answer_all(streams: Vec<TcpStream>, bytes: usize) -> Result<()> {
    for stream in &streams {
        Request::read(&mut BufReader::new(stream))?.context("no request")?;
    }
    let body = beginning(KEY, bytes);
    for stream in &streams {
        respond(stream, "until-end", &body)?;
    }
    Ok(())
}

/// Everything that curl does with one server.
fn all_kinds(from: &Netns, url: &str, more: &[&str]) -> Result<()> {
    let bytes = sized(3_000_000, 300_000_000);
    let expected = hash_of(&beginning(KEY, bytes));
    let curl = |words: &[&str]| {
        call(
            from,
            &[&["curl", "-sS", "--fail", "-g"], more, words].concat(),
        )
    };
    for kind in ["bytes", "chunked", "until-end"] {
        let script = format!(
            "curl -sS --fail -g {} {url}/{kind}/{bytes} | sha256sum",
            more.join(" ")
        );
        let got = call(from, &["bash", "-o", "pipefail", "-c", &script])?;
        ensure!(got.starts_with(&expected), "{kind} of {url}: {got}");
    }
    // One connection for all of them.
    let connects = curl(&[
        "-w",
        "%{num_connects}\n",
        "-o",
        "/dev/null",
        &format!("{url}/bytes/0"),
        "-o",
        "/dev/null",
        &format!("{url}/chunked/1"),
        "-o",
        "/dev/null",
        &format!("{url}/bytes/99"),
    ])?;
    ensure!(connects == "1\n0\n0\n", "{connects}");
    let input = beginning(KEY, bytes);
    let to = format!("{url}/post");
    let post = ["curl", "-sS", "--fail", "-g"];
    for kind in [["--data-binary", "@-"], ["-T", "-"]] {
        let words = [&post[..], more, &kind, &[&*to]].concat();
        let answer = call_with(from, &words, input.clone())?;
        ensure!(answer == expected, "{kind:?} to {url}: {answer}");
    }
    Ok(())
}

#[test]
fn curl_by_every_way() {
    lab::run(|host| {
        let site = Site::new(host)?;
        for (way, port) in Way::ALL.into_iter().zip(0..) {
            serve(site.listen(way, port)?);
            all_kinds(
                site.caller(way),
                &format!("http://{}", way.called(port)),
                &[],
            )
            .with_context(|| format!("{way:?}"))?;
        }
        Ok(())
    });
}

/// By the name that engines write into the guest's list of hosts.
#[test]
fn curl_of_the_host_by_its_name() {
    lab::run(|host| {
        let site = Site::new(host)?;
        serve(TcpListener::bind(("0.0.0.0", OUTSIDE_PORT))?);
        let name = format!("host.containers.internal:{OUTSIDE_PORT}");
        let resolve = format!("{name}:{MAP_GUEST}");
        all_kinds(
            &site.guest,
            &format!("http://{name}"),
            &["--resolve", &resolve],
        )
    });
}

/// At the MTU of Ethernet, where the guest's segments are small if its kernel cuts them.
#[test]
fn curl_at_a_small_mtu() {
    lab::run(|host| {
        let site = Site::with(host, &["--mtu", "1500"])?;
        for way in [Way::Out4, Way::In6] {
            serve(site.listen(way, 0)?);
            all_kinds(site.caller(way), &format!("http://{}", way.called(0)), &[])
                .with_context(|| format!("{way:?}"))?;
        }
        Ok(())
    });
}
