//! A thousand connections at once: all are open before the first one is answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use test_fixtures::lab;
use test_fixtures::program::Program;

use crate::effort::{sized, tell};
use crate::http;
use crate::site::{Beside, POOL, Site, Way, wait_for};
use crate::stream::{beginning, hash_of};

const THOUSAND: usize = 1_000;
/// Descriptors of ours that are no connection's: at least the listeners, two ranges of eight on each side.
const OWN: usize = 32;
/// Bytes of each answer.
const ANSWER: usize = 40_000;

/// Ask for a file on a connection that is open.
fn ask(stream: &mut TcpStream, path: &str) -> Result<()> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    Ok(stream.write_all(request.as_bytes())?)
}

/// The body of an answer that ends with the connection.
fn body(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "{line:?}");
    while line != "\r\n" {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "no end of the head");
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok(body)
}

/// nginx, which lets as many wait as ask.
fn nginx(site: &Site<'_>, way: Way, directory: &Path) -> Result<Beside> {
    let at = way.listens(0);
    let both = if way.outbound() { "" } else { "ipv6only=off" };
    let configuration = directory.join(format!("{way:?}.conf"));
    std::fs::write(
        &configuration,
        format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;
             events {{ worker_connections 4096; }}
             http {{
               access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
               uwsgi_temp_path uwsgi; scgi_temp_path scgi;
               server {{ listen {at} {both} backlog=4096; root {}; }}
             }}",
            directory.display()
        ),
    )?;
    let (directory, configuration) = (directory.to_string_lossy(), configuration.to_string_lossy());
    let words = [
        "nginx",
        "-e",
        "stderr",
        "-p",
        &*directory,
        "-c",
        &*configuration,
    ];
    Beside::serve(site.callee(way), 't', at.port(), &words)
}

#[test]
fn a_thousand_connections_to_a_real_server() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let expected = beginning(6, ANSWER);
        let files = host.dir("files")?;
        std::fs::write(files.join("file"), &expected)?;
        let idle = site.us.holds()?.descriptors + POOL;
        for way in Way::ALL {
            site.us.lets_go(idle)?;
            let before = site.us.holds()?;
            let _server = nginx(&site, way, &files)?;
            let called = way.called(0);
            let mut streams = site.caller(way).enter(|| {
                (0..THOUSAND)
                    .map(|_| TcpStream::connect(called).with_context(|| format!("to {called}")))
                    .collect::<Result<Vec<_>>>()
            })?;
            let mut open = before;
            wait_for("all of them have a socket of ours", || {
                open = site.us.holds().unwrap_or(open);
                open.descriptors >= THOUSAND + OWN
            })?;
            for stream in &mut streams {
                stream.set_read_timeout(Some(crate::site::PATIENCE))?;
                ask(stream, "/file")?;
            }
            for stream in &streams {
                let body = body(stream).with_context(|| format!("{way:?}"))?;
                ensure!(body == expected, "{way:?}: {} bytes", body.len());
            }
            drop(streams);
            site.us.lets_go(idle)?;
            tell(&format!(
                "{way:?}: {THOUSAND} connections at once: {before:?} before, {open:?} with all open, {:?} after",
                site.us.holds()?
            ));
        }
        Ok(())
    });
}

/// Four times 250 of curl's. Our server answers nobody before all have asked.
#[test]
fn a_thousand_connections_of_a_real_client() {
    lab::run(|host| {
        let site = Site::new(host)?;
        let directory = host.dir("answers")?;
        let expected = hash_of(&beginning(http::KEY, ANSWER));
        for way in sized(vec![Way::Out4, Way::In4, Way::SpliceIn4], Way::ALL.to_vec()) {
            let listener = site.listen(way, 0)?;
            let answering = thread::spawn(move || -> Result<()> {
                let streams = (0..THOUSAND)
                    .map(|_| Ok(listener.accept()?.0))
                    .collect::<Result<Vec<_>>>()?;
                http::answer_all(streams, ANSWER)
            });
            let called = way.called(0);
            curls(&site, way, &format!("http://{called}"), &directory)?;
            answering.join().expect("no panic")?;
            let script = format!(
                "cd {} && sha256sum * | cut -d' ' -f1 | sort | uniq -c; rm *",
                directory.display()
            );
            let hashes = host.sh(&script)?;
            ensure!(
                hashes.trim() == format!("{THOUSAND} {expected}"),
                "{way:?}: {hashes}"
            );
        }
        Ok(())
    });
}

fn curls(site: &Site<'_>, way: Way, url: &str, directory: &Path) -> Result<()> {
    let from = site.caller(way);
    thread::scope(|scope| {
        let threads = [1, 251, 501, 751].map(|first| {
            scope.spawn(move || -> Result<()> {
                let last = first + 249;
                let finished = Program::new("curl")
                    .args(["-sS", "--fail", "-Z", "--parallel-immediate"])
                    .args(["--parallel-max", "250", "-o"])
                    .arg(format!("{}/#1", directory.display()))
                    .arg(format!("{url}/[{first}-{last}]"))
                    .run_in(from)?;
                ensure!(finished.success(), "{finished}");
                Ok(())
            })
        });
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        Ok(())
    })
}
