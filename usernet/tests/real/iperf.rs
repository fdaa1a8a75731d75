//! iperf3: streams and datagrams, one and several, both ways.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use test_fixtures::lab;

use crate::effort::{full, sized, tell};
use crate::site::{Beside, Site, Way, call};

/// One call, with a server for it alone. The result is what iperf3 says of the end.
fn iperf(site: &Site<'_>, way: Way, words: &[&str]) -> Result<Value> {
    let port = way.listens(0).port().to_string();
    let serve = ["iperf3", "-s", "-1", "-p", &port];
    let server = Beside::serve(site.callee(way), 't', way.listens(0).port(), &serve)?;
    let called = way.called(0);
    let (ip, port) = (called.ip().to_string(), called.port().to_string());
    let call_it = ["iperf3", "-J", "-c", &ip, "-p", &port];
    let said = call(site.caller(way), &[&call_it, words].concat())
        .with_context(|| format!("{way:?} {words:?}"))?;
    server.ended()?;
    let said: Value = serde_json::from_str(&said)?;
    ensure!(
        said["error"].is_null(),
        "{way:?} {words:?}: {}",
        said["error"]
    );
    Ok(said["end"].clone())
}

#[test]
fn iperf_streams() {
    lab::run(|host| {
        let site = Site::new(host)?;
        for way in Way::ALL {
            for words in [
                &[][..],
                &["-R"],
                &["-P", "4"],
                &["-P", "4", "-R"],
                &["--bidir"],
            ] {
                let amount = sized(["-n", "30M"], ["-t", "3"]);
                let end = iperf(&site, way, &[words, &amount].concat())?;
                // What is under way when the sender has sent enough is not waited for. Nobody stood aside, though.
                let sent = |name: &str| end[name]["bytes"].as_u64().unwrap_or_default();
                let bytes = sent("sum_sent") + sent("sum_sent_bidir_reverse");
                ensure!(full() || bytes >= 30 << 20, "{way:?} {words:?}: {end}");
                for stream in end["streams"].as_array().context("no streams")? {
                    let bytes = stream["receiver"]["bytes"].as_u64().context("no bytes")?;
                    ensure!(bytes > 0, "{way:?} {words:?}: {stream}");
                }
                tell(&format!(
                    "{way:?}: iperf3 {}: {:.1} Gb/s",
                    words.join(" "),
                    end["sum_received"]["bits_per_second"]
                        .as_f64()
                        .unwrap_or_default()
                        / 1e9
                ));
            }
        }
        Ok(())
    });
}

/// Few enough that nothing is lost anywhere on an idle machine. On a busy one the programs' own sockets overflow: small
/// runs ask only that some arrive.
#[test]
fn iperf_datagrams() {
    lab::run(|host| {
        let site = Site::new(host)?;
        for way in Way::ALL {
            for size in ["64", "1400", "30000"] {
                for words in [&[][..], &["-R"], &["-P", "4"]] {
                    let rate = if size == "64" { "2M" } else { "40M" };
                    let amount = sized(["-k", "100"], ["-t", "3"]);
                    let datagrams = ["-u", "-b", rate, "-l", size];
                    let all = [&datagrams[..], &amount, words].concat();
                    let end = iperf(&site, way, &all)?;
                    let sum = &end["sum"];
                    let lost = sum["lost_percent"].as_f64().context("no loss")?;
                    let packets = sum["packets"].as_u64().context("no packets")?;
                    let bearable = sized(100.0, 5.0);
                    ensure!(packets > 10 && lost < bearable, "{way:?} {all:?}: {sum}");
                    tell(&format!(
                        "{way:?}: iperf3 {}: {packets} datagrams, {lost} % lost",
                        all.join(" ")
                    ));
                }
            }
        }
        Ok(())
    });
}
