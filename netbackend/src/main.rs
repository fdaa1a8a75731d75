//! `netbackend`: request, observe, plan, apply, status.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use netbackend::cli::explain::{
    CaptureArgs, InspectArgs, PictureFormat, RecordArgs, ReplayArgs, TopologyArgs,
};
use netbackend::cli::{
    Cli, Command, GcArgs, Namespace, Options, PlanAction, PlanArgs, ProxyArgs, UpdateArgs, VERSION,
};
use netbackend::doctor::{self, DoctorArgs};
use netbackend::gc::Finding;
use netbackend::inspect::{self, text::printable};
use netbackend::observed::{FirewallDriver, Settings};
use netbackend::plan::{self, Plan, step::Step};
use netbackend::record::Ended;
use netbackend::request::{self, Policy, SetupRequest, TeardownRequest};
use netbackend::schema;
use netbackend::sys::capture::Capture;
use netbackend::sys::replay::Replay;
use netbackend::sys::{self, Host, SysError, apply, call, input, observe, proxy, reload, watch};
use netbackend::topology;
use netbackend::update::UpdateRequest;
use serde_json::json;
use wire::collection::Collection;
use wire::inspection::Inspection;
use wire::state::Isolation;
use wire::status::ErrorReply;
use wire::version::Version;

fn main() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            if usage.use_stderr() {
                input::drain();
            }
            usage.exit();
        }
    };
    // The program whose calls are recorded has a right to what it would inherit.
    if !matches!(cli.command, Command::Record(_)) {
        input::close_on_exec();
    }
    input::start_logging();
    cli.options.own_config = sys::engine::own_networks();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            let text = message(&error);
            if cli.command.is_for_people() {
                input::note_beside_output(&format!("netbackend: {}", printable(&text)));
            }
            drop(input::reply(&format!("{}\n", json!(ErrorReply::new(text)))));
            if matches!(cli.command, Command::Doctor(_)) {
                ExitCode::from(COULD_NOT_LOOK)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The doctor's word for that it knows nothing.
const COULD_NOT_LOOK: u8 = 2;

/// What an error says, with its causes. Our own errors tell theirs themselves, in netavark's words; such
/// a cause is not told again.
fn message(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    let told = causes.reduce(|text, cause| {
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    });
    told.unwrap_or_default()
}

/// An error is still to be told; who returns a code has said what there is to say.
fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.options;
    let done = match &cli.command {
        Command::Setup(namespace) => setup(options, namespace),
        Command::Teardown(namespace) => teardown(options, namespace),
        Command::Update(arguments) => update(options, arguments),
        Command::Inspect(arguments) => inspect(options, arguments),
        Command::Topology(arguments) => topology(options, arguments),
        Command::Doctor(arguments) => return doctor(options, arguments),
        Command::Record(arguments) => return record(arguments),
        Command::Replay(arguments) => return replay(options, arguments),
        Command::Capture(arguments) => capture(options, arguments),
        Command::Gc(arguments) => collect(options, arguments),
        Command::Create => create(options),
        Command::Plan(arguments) => print_plan(options, arguments),
        Command::Schema { document } => print_schema(*document),
        Command::DhcpProxy(arguments) => dhcp_proxy(arguments),
        Command::FirewallReload => firewall_reload(options),
        Command::FirewalldReload => firewalld_reload(options),
        Command::NftablesReload => nftables_reload(options),
        Command::Version => version(),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The code of who looked and tells what he found.
fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[tokio::main(flavor = "current_thread")]
async fn setup(options: &Options, namespace: &Namespace) -> anyhow::Result<()> {
    let document = document(options)?;
    let netns = Path::new(&namespace.netns);
    input::check_namespace(netns)?;
    let settings = settings(options, "setup")?;
    let request = SetupRequest::new(request::parse(&document)?, &policy()?)?;
    let mut host = Host::open(settings, options.nft().map(Into::into))?;
    call::repair(&mut host).await?;
    let interrupts = input::Interrupts::hold();
    // Setup ends at the first step that fails. What comes after that is undone, which nothing may stop.
    let mut failed = false;
    let perform = async |host: &mut Host, step: &Step| {
        let done = match interrupts.check() {
            Err(interrupted) if !failed => Err(interrupted),
            _ => host.perform(step).await,
        };
        failed |= done.is_err();
        done
    };
    let done = call::setup(&mut host, &request, netns, perform).await;
    let done = match done {
        Ok((plan, applied)) => {
            let own_resolvers = request.dns_servers.iter().flatten().next().is_some();
            let status = plan::answer::reply(plan.status, applied.answers(), own_resolvers);
            let replied = input::reply(&format!("{}\n", json!(status)));
            if replied.is_err() {
                apply::take_back(applied, async |step| host.perform(step).await).await;
            }
            host.state.end();
            replied.context("write the reply")
        }
        Err(error) => Err(error.into()),
    };
    call::conclude(host).await;
    done
}

#[tokio::main(flavor = "current_thread")]
async fn teardown(options: &Options, namespace: &Namespace) -> anyhow::Result<()> {
    let document = document(options)?;
    // From here on it is better to come to the end than to stop.
    let _interrupts = input::Interrupts::hold();
    let settings = settings(options, "teardown")?;
    let request = TeardownRequest::new(&request::parse(&document)?)?;
    let mut host = Host::open(settings, options.nft().map(Into::into))?;
    call::repair(&mut host).await?;
    let mut errors: Vec<String> = Vec::new();
    enter_if_there(&mut host, namespace, &mut errors);
    let perform = async |host: &mut Host, step: &Step| host.perform(step).await;
    match call::detach(&mut host, &request, perform).await {
        Ok(failed) => errors.extend(failed.iter().map(ToString::to_string)),
        Err(error) => errors.push(error.to_string()),
    }
    call::conclude(host).await;
    fail(&errors)
}

/// One error as itself, several in a list; nothing if there is none.
fn fail(errors: &[String]) -> anyhow::Result<()> {
    match errors {
        [] => Ok(()),
        [error] => bail!("{error}"),
        many => bail!(
            "netavark encountered multiple errors:{}",
            many.iter()
                .map(|error| format!("\n\t- {error}"))
                .collect::<String>()
        ),
    }
}

/// A namespace that is gone does not stop a teardown; one that is something else is reported.
fn enter_if_there(host: &mut Host, namespace: &Namespace, errors: &mut Vec<String>) {
    match host.enter_container(Path::new(&namespace.netns)) {
        Ok(()) => {}
        Err(SysError::NetnsPath(error)) => {
            tracing::warn!("container netns not found: {}: {error}", namespace.netns);
        }
        Err(error) => errors.push(error.to_string()),
    }
}

/// Standard input is left alone: there is nothing to learn from it, and nobody may ever close it.
fn update(options: &Options, arguments: &UpdateArgs) -> anyhow::Result<()> {
    let config = config(options, "update")?;
    let request = UpdateRequest::new(&arguments.network, &arguments.network_dns_servers)?;
    let _interrupts = input::Interrupts::hold();
    Ok(sys::update::update(&config, &request)?)
}

#[tokio::main(flavor = "current_thread")]
async fn collect(options: &Options, arguments: &GcArgs) -> anyhow::Result<()> {
    let settings = settings(options, "gc")?;
    if sys::gc::is_idle(&settings.config) {
        return print_findings(&[], arguments);
    }
    let _interrupts = input::Interrupts::hold();
    let mut host = Host::open(settings, options.nft().map(Into::into))?;
    if arguments.dry_run {
        let findings = sys::gc::look(&mut host, arguments.force).await;
        call::conclude(host).await;
        return print_findings(&findings?, arguments);
    }
    let collected = sys::gc::collect(&mut host, arguments.force, call::unattended).await;
    call::conclude(host).await;
    let collected = collected?;
    if collected.errors.is_empty() {
        return print_findings(&collected.findings, arguments);
    }
    for finding in &collected.findings {
        tracing::info!("{finding}");
    }
    fail(&collected.errors)
}

fn print_findings(findings: &[Finding], arguments: &GcArgs) -> anyhow::Result<()> {
    let text = if arguments.json {
        let all = findings.iter().map(Finding::document).collect();
        let collection = if arguments.dry_run {
            Collection::Found { found: all }
        } else {
            Collection::Removed { removed: all }
        };
        format!("{}\n", json!(collection))
    } else {
        let verb = if arguments.dry_run {
            "would remove"
        } else {
            "removed"
        };
        let line = |finding: &Finding| format!("{verb} {finding}\n");
        findings.iter().map(line).collect()
    };
    Ok(input::reply(&text)?)
}

#[tokio::main(flavor = "current_thread")]
async fn facts(options: &Options) -> anyhow::Result<inspect::Facts> {
    Ok(sys::inspect::facts(&options.reload_settings()).await?)
}

fn inspection(options: &Options, name: Option<&str>) -> anyhow::Result<Inspection> {
    let facts = facts(options)?;
    let found = inspect::inspection(&facts);
    Ok(match name {
        None => found,
        Some(name) => inspect::choose(&found, name)?,
    })
}

fn topology(options: &Options, arguments: &TopologyArgs) -> anyhow::Result<()> {
    let found = inspection(options, arguments.name.as_deref())?;
    let text = match arguments.format {
        PictureFormat::Svg => {
            topology::svg::svg(&topology::layout::layout(&found), arguments.theme)
        }
        PictureFormat::Mermaid => topology::mermaid::mermaid(&topology::graph(&found)),
        PictureFormat::Json => format!("{}\n", json!(topology::graph(&found))),
    };
    match &arguments.output {
        Some(path) => Ok(input::write(path, text.as_bytes())?),
        None => Ok(input::reply(&text)?),
    }
}

fn inspect(options: &Options, arguments: &InspectArgs) -> anyhow::Result<()> {
    let found = inspection(options, arguments.name.as_deref())?;
    let text = if arguments.json {
        format!("{}\n", json!(found))
    } else {
        inspect::text::text(&found)
    };
    Ok(input::reply(&text)?)
}

fn record(arguments: &RecordArgs) -> anyhow::Result<ExitCode> {
    let RecordArgs {
        backend,
        directory,
        command,
        ..
    } = arguments;
    let ended = match backend {
        Some(backend) if arguments.call => sys::record::call(directory, backend, command)?,
        backend => sys::record::command(directory, backend.as_deref(), command)?,
    };
    let code = match ended {
        Ended::Code(code) => u8::try_from(code & 0xff).unwrap_or_default(),
        Ended::Signal(signal) => {
            sys::record::end_by(signal)?;
            128
        }
    };
    Ok(code.into())
}

fn replay(options: &Options, arguments: &ReplayArgs) -> anyhow::Result<ExitCode> {
    if arguments.inside {
        return replay_inside(options, arguments);
    }
    let code = sys::replay::in_namespaces()?;
    Ok(u8::try_from(code).unwrap_or(1).into())
}

#[tokio::main(flavor = "current_thread")]
async fn replay_inside(options: &Options, arguments: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let replay = Replay {
        file: &arguments.recording,
        backend: arguments.backend.as_deref(),
        responder: &options.aardvark_binary,
        plugins: &options.plugin_directory,
        nft: options.nft(),
        policy: policy()?,
    };
    let report = sys::replay::run(&replay).await?;
    let text = if arguments.json {
        format!("{}\n", json!(report))
    } else {
        netbackend::replay::text::text(&report)
    };
    input::reply(&text)?;
    Ok(code(report.good))
}

fn capture(options: &Options, arguments: &CaptureArgs) -> anyhow::Result<()> {
    let facts = facts(options)?;
    let all = inspect::inspection(&facts);
    let id = inspect::container(&all, &arguments.container)?;
    let mut records = facts.containers.iter();
    let record = records.find(|record| record.id.as_str() == id);
    let done = sys::capture::capture(&Capture {
        facts: &facts,
        container: record.context("a container that is shown is on record")?,
        names: netbackend::capture::names(&all, &id),
        output: arguments.output.as_deref(),
        count: arguments.count,
        filter: &arguments.filter,
    })?;
    for line in done.lines() {
        input::note(&line);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn doctor(options: &Options, arguments: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let facts = sys::doctor::look(
        options.reload_settings(),
        sys::doctor::caller(options),
        options.nft().is_some(),
    );
    let report = doctor::examine(&facts.await?);
    let text = if arguments.json {
        format!("{}\n", json!(report.document()))
    } else {
        report.text()
    };
    input::reply(&text)?;
    Ok(code(report.is_healthy()))
}

fn create(options: &Options) -> anyhow::Result<()> {
    let document = input::request(options.file.as_deref())
        .map_err(|error| anyhow::anyhow!("failed to load network create: IO error: {error}"))?;
    let network = sys::create::create(&document, &options.plugin_directory)?;
    Ok(input::reply(&format!("{}\n", json!(network)))?)
}

#[tokio::main(flavor = "current_thread")]
async fn dhcp_proxy(arguments: &ProxyArgs) -> anyhow::Result<()> {
    // The environment has the first word, since it is how a service is told where it is to run.
    let directory = input::variable("NETAVARK_PROXY_RUN_DIR_ENV").filter(|path| !path.is_empty());
    let settings = proxy::Settings {
        directory: directory.map_or_else(|| arguments.dir.clone(), Into::into),
        patience: Duration::from_secs(arguments.timeout.into()),
        idle: Duration::from_secs(arguments.activity_timeout),
    };
    Ok(proxy::serve(settings).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn print_plan(options: &Options, arguments: &PlanArgs) -> anyhow::Result<()> {
    let document = document(options)?;
    let parsed = request::parse(&document)?;
    let mut host = Host::look(settings(options, "plan")?)?;
    let plan = match &arguments.action {
        PlanAction::Setup(namespace) => {
            let request = SetupRequest::new(parsed, &policy()?)?;
            host.enter_container(Path::new(&namespace.netns))?;
            let observed = observe::setup(&mut host, &request).await?;
            plan::setup::plan(&request, &observed, &host.settings)?
        }
        PlanAction::Teardown(namespace) => {
            let request = TeardownRequest::new(&parsed)?;
            enter_if_there(&mut host, namespace, &mut Vec::new());
            let observed = observe::teardown(&mut host, &request)?;
            plan::teardown::plan(&request, &observed, &host.settings)
        }
    };
    let script = script(&mut host, &plan).await?;
    let text = if arguments.json {
        format!("{}\n", json!(plan.document(script)))
    } else if script.is_empty() {
        plan.to_string()
    } else {
        let lines: String = script
            .lines()
            .map(|line| format!("     {line}\n"))
            .collect();
        format!("{plan}\nPacket filter:\n{lines}")
    };
    Ok(input::reply(&text)?)
}

/// What a plan would say to the packet filter.
async fn script(host: &mut Host, plan: &Plan) -> anyhow::Result<String> {
    let mut script = String::new();
    for planned in &plan.steps {
        if let Step::Firewall(change) = &planned.step {
            script.push_str(&netbackend::nft::text::script(
                &host.transaction(change).await?,
            ));
        }
    }
    Ok(script)
}

#[tokio::main(flavor = "current_thread")]
async fn firewall_reload(options: &Options) -> anyhow::Result<()> {
    let _interrupts = input::Interrupts::hold();
    Ok(reload::reload(&options.reload_settings(), options.nft()).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn firewalld_reload(options: &Options) -> anyhow::Result<()> {
    Ok(reload::with_firewalld(&options.reload_settings(), options.nft()).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn nftables_reload(options: &Options) -> anyhow::Result<()> {
    let interrupts = input::Interrupts::hold();
    Ok(watch::run(&options.reload_settings(), options.nft(), &interrupts).await?)
}

fn document(options: &Options) -> anyhow::Result<Vec<u8>> {
    let read = input::request(options.file.as_deref());
    read.map_err(|error| anyhow::anyhow!("failed to load network options: IO error: {error}"))
}

fn settings(options: &Options, command: &str) -> anyhow::Result<Settings> {
    let config = config(options, command)?;
    let dns_port = match input::variable("NETAVARK_DNS_PORT") {
        None => 53,
        Some(text) => text.parse().with_context(|| {
            format!("Invalid NETAVARK_DNS_PORT \"{text}\", expected a port number")
        })?,
    };
    Ok(Settings {
        config,
        rootless: options.rootless,
        dns_binary: options.aardvark_binary.clone(),
        dns_port,
        firewall: firewall(options)?,
        plugin_directories: options.plugin_directory.clone(),
    })
}

fn config(options: &Options, command: &str) -> anyhow::Result<PathBuf> {
    let missing = || anyhow::anyhow!("--config not specified but required for netavark {command}");
    options.config().map(Into::into).ok_or_else(missing)
}

fn firewall(options: &Options) -> anyhow::Result<FirewallDriver> {
    let name = options
        .firewall_driver
        .as_ref()
        .map(|name| name.to_string_lossy().to_ascii_lowercase());
    match name.as_deref() {
        None | Some("nftables") => {
            tracing::info!(target: "netavark::firewall", "Using nftables firewall driver");
            Ok(FirewallDriver::Nftables)
        }
        Some("iptables") => {
            tracing::warn!(target: "netavark::firewall", "firewall driver iptables no longer exists, using nftables: remove firewall_driver from containers.conf");
            Ok(FirewallDriver::Nftables)
        }
        Some("firewalld") => {
            tracing::info!(target: "netavark::firewall", "Using firewalld firewall driver");
            Ok(FirewallDriver::Firewalld)
        }
        Some("none") => {
            tracing::info!(target: "netavark::firewall", "Not using firewall");
            Ok(FirewallDriver::None)
        }
        Some(other) => bail!("Must provide a valid firewall backend, got {other}"),
    }
}

fn policy() -> anyhow::Result<Policy> {
    let default_isolation = match input::variable("NETBACKEND_ISOLATE_DEFAULT").as_deref() {
        None | Some("") => None,
        Some("none") => Some(Isolation::None),
        Some("strict") => Some(Isolation::Strict),
        Some(other) => bail!("NETBACKEND_ISOLATE_DEFAULT: \"{other}\", expected none or strict"),
    };
    Ok(Policy { default_isolation })
}

fn print_schema(document: Option<schema::Name>) -> anyhow::Result<()> {
    let schema = document.map_or_else(schema::all, schema::Name::schema);
    Ok(input::reply(&format!("{schema:#}\n"))?)
}

fn version() -> anyhow::Result<()> {
    let version = json!(Version {
        version: VERSION.to_owned(),
        commit: env!("NETBACKEND_COMMIT").to_owned(),
        build_time: env!("NETBACKEND_BUILD_TIME").to_owned(),
        target: env!("NETBACKEND_TARGET").to_owned(),
        default_fw_driver: FirewallDriver::Nftables.name().to_owned(),
    });
    Ok(input::reply(&format!("{version:#}\n"))?)
}
