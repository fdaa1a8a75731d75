//! The report for people.

use std::time::Duration;

use wire::replay::{Call, Check, Report};

use crate::inspect::text::printable;

/// All of it.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = format!(
        "Container {} on {}\n\nPlan\n",
        printable(&report.container),
        printable(&report.networks.join(", "))
    );
    for (number, step) in report.plan.iter().enumerate() {
        out.push_str(&format!("  {:>2}. {}\n", number + 1, printable(step)));
    }
    // The rules never change and are the same for everybody; what is about this container is elements.
    let (elements, rest): (Vec<&str>, Vec<&str>) = report
        .nft
        .lines()
        .partition(|line| line.contains(" element "));
    if !report.nft.is_empty() {
        out.push_str("\nPacket filter\n");
        for line in elements {
            out.push_str(&format!("  {}\n", printable(line)));
        }
    }
    if !rest.is_empty() {
        let count = rest.len();
        out.push_str(&format!("  and {count} lines for what is always there\n"));
    }
    out.push_str(&format!("\nSetup: {}\n", call(&report.setup)));
    log(&mut out, &report.setup);
    if let Some(status) = &report.status {
        let text = serde_json::to_string_pretty(status).unwrap_or_default();
        out.extend(text.lines().map(|line| format!("  {line}\n")));
    }
    match report.differs.as_deref() {
        None => {}
        Some([]) => out.push_str("  as on record\n"),
        Some(differences) => {
            for difference in differences {
                out.push_str(&format!("  differs: {}\n", printable(difference)));
            }
        }
    }
    if !report.checks.is_empty() || !report.not_asked.is_empty() {
        out.push_str("\nTraffic\n");
    }
    for check in &report.checks {
        out.push_str(&line(check));
    }
    for why in &report.not_asked {
        out.push_str(&format!("  --      {}\n", printable(why)));
    }
    if let Some(teardown) = &report.teardown {
        out.push_str(&format!("\nTeardown: {}\n", call(teardown)));
        log(&mut out, teardown);
    }
    out.push_str("\nLeft behind\n");
    if report.left.is_empty() {
        out.push_str("  nothing\n");
    }
    for left in &report.left {
        out.push_str(&format!("  {}\n", printable(left)));
    }
    let verdict = if report.good {
        "\nAll is well.\n"
    } else {
        "\nNot all is well.\n"
    };
    out.push_str(verdict);
    out
}

fn call(call: &Call) -> String {
    let outcome = match (call.exit_code, &call.error) {
        (Some(0), _) => "done".to_owned(),
        (_, Some(error)) => format!("failed: {}", printable(error)),
        (Some(code), None) => format!("failed with code {code}"),
        (None, None) => "did not end by itself".to_owned(),
    };
    format!("{outcome}, {}", took(call.duration_us))
}

fn log(out: &mut String, call: &Call) {
    for line in call.log.lines() {
        out.push_str(&format!("  log: {}\n", printable(line)));
    }
}

fn line(check: &Check) -> String {
    let word = match (check.good, check.wanted) {
        (true, true) => "ok",
        (true, false) => "closed",
        (false, _) => "FAILED",
    };
    let answer = match (check.good, check.wanted) {
        (true, true) => took(check.duration_us),
        (true, false) => "as it should be".to_owned(),
        (false, true) => printable(&check.answer),
        (false, false) => format!("must not be: {}", printable(&check.answer)),
    };
    format!("  {word:<7} {} ({answer})\n", printable(&check.check))
}

fn took(micros: u64) -> String {
    format!("{:.1?}", Duration::from_micros(micros))
}
