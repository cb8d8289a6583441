//! `edged`: the edge proxy. Reads its settings, runs [`edgeproxy::Proxy`], tells where a request would go.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use edgeproxy::{Certificates, Diagnostic, DockerProvider, LabelsFile, Proxy, RouteTable};
use hybrid_examples::daemon::{self, Failure, Logging, StopSignal};
use hybrid_examples::edge_settings::EdgeSettings;
use hybrid_examples::local_tls::{self, LocalTls};
use hybrid_examples::table::Table;
use hyper::{HeaderMap, Method, header::HeaderName, header::HeaderValue};

const EXAMPLES: &str = "\
Examples:
  edged run --docker /var/run/docker.sock --listen 0.0.0.0:80
  edged run --config /etc/edged/edged.toml
  edged check labels.json
  edged explain --labels labels.json GET https://notes.example.org/ -H 'Accept: text/html'";

/// How long requests in flight may take after Ctrl-C: a daemon ends within 2 s.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// How often new routes are looked for: for their certificates, and for what to say about their labels.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// A reverse proxy that configures itself from Docker labels
#[derive(Parser)]
#[command(name = "edged", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    logging: Logging,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until Ctrl-C or SIGTERM
    Run {
        /// Read the settings from a TOML file; a flag wins over the file's key of the same name
        #[arg(long, value_name = "FILE", required_unless_present_any = ["labels", "docker"])]
        config: Option<PathBuf>,
        #[command(flatten)]
        edge: EdgeSettings,
    },
    /// Show the routes of a config file (*.toml) or a labels file, and what is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
    /// Tell which router, service and server a request takes, or why none
    Explain {
        #[command(flatten)]
        source: Source,
        /// The request's method
        method: Method,
        /// The request's URL, `https://notes.example.org/`
        url: String,
        /// A header of the request; repeatable
        #[arg(short = 'H', long = "header", value_name = "K: V", value_parser = header)]
        headers: Vec<(HeaderName, HeaderValue)>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A config file that names a labels file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A labels file
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not `Name: value`"))?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is no header name"))?;
    Ok((name, value.trim().parse().map_err(|_| format!("`{value}` is no header value"))?))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("edged", &cli.logging, async {
        match cli.command {
            Command::Run { config, edge } => run(edge.over(config.as_deref())?).await,
            Command::Check { file } => check(&file),
            Command::Explain { source, method, url, headers, json } => {
                explain(&source, &method, &url, headers.into_iter().collect(), json)
            }
        }
    })
}

async fn run(edge: EdgeSettings) -> Result<(), Failure> {
    let mut stop = StopSignal::install()?;
    let certificates = Certificates::new();
    let mut local = None;
    match (&edge.tls_cert, &edge.tls_key) {
        (Some(chain), Some(key)) => local_tls::load(&certificates, chain, key)?,
        _ if edge.tls_listen.is_some() => local = Some(LocalTls::new(certificates.clone())?),
        _ => {}
    }
    let mut builder = Proxy::builder(edge.config()).certificates(certificates);
    if let Some(labels) = &edge.labels {
        builder = builder.provider(LabelsFile::open(labels)?);
    }
    if let Some(socket) = &edge.docker {
        builder = builder.provider(DockerProvider::connect(socket).await?);
    }
    let proxy = builder.start().await?;
    let mut facts = Vec::new();
    facts.extend(proxy.http_addr().map(|address| ("http", address.to_string())));
    facts.extend(proxy.https_addr().map(|address| ("https", address.to_string())));
    facts.extend(local.as_ref().map(|tls| ("ca", tls.authority_file().display().to_string())));
    daemon::announce(&facts)?;
    tokio::select! {
        () = stop.wait() => {}
        () = watch(&proxy, local.as_mut()) => {}
    }
    let grace = edge.grace.unwrap_or(GRACE_MAX).min(GRACE_MAX);
    if let Err(cut) = proxy.shutdown(grace).await {
        tracing::warn!("{cut}");
    }
    Ok(())
}

/// Looks at every new route table: its hosts get certificates, what is wrong with its labels is said once.
async fn watch(proxy: &Proxy, mut local: Option<&mut LocalTls>) {
    let mut seen: Option<Arc<RouteTable>> = None;
    let mut said: Vec<Diagnostic> = Vec::new();
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    loop {
        ticks.tick().await;
        let table = proxy.routes();
        if seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &table)) {
            continue;
        }
        if let Some(tls) = local.as_deref_mut() {
            tls.cover(&table);
        }
        let diagnostics = proxy.diagnostics();
        diagnostics
            .iter()
            .filter(|diagnostic| !said.contains(diagnostic))
            .for_each(|d| tracing::warn!("{d}"));
        (seen, said) = (Some(table), diagnostics);
    }
}

fn compile(labels: &Path) -> Result<(RouteTable, Vec<Diagnostic>), Failure> {
    Ok(RouteTable::compile(&LabelsFile::open(labels)?.read()?))
}

fn check(file: &Path) -> Result<(), Failure> {
    let labels = if file.extension().is_some_and(|ending| ending == "toml") {
        let edge = EdgeSettings::load(file)?;
        if let (Some(chain), Some(key)) = (&edge.tls_cert, &edge.tls_key) {
            local_tls::load(&Certificates::new(), chain, key)?;
        }
        edge.labels
    } else {
        Some(file.to_owned())
    };
    let Some(labels) = labels else {
        return daemon::print("the settings are right; the routes come from Docker\n");
    };
    let (table, diagnostics) = compile(&labels)?;
    let mut shown = Table::new(&["ROUTER", "RULE", "SERVICE", "SERVERS"]);
    for route in table.routes() {
        let servers = route.service.servers.iter().map(|server| match &server.upstream {
            Some(upstream) => upstream.to_string(),
            None => format!("{} (no address)", server.container),
        });
        let servers = servers.collect::<Vec<_>>().join(", ");
        shown.row([route.name.clone(), route.rule_text.clone(), route.service.name.clone(), servers]);
    }
    daemon::print(&shown.to_string())?;
    if diagnostics.is_empty() {
        return Ok(());
    }
    daemon::print(&diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect::<String>())?;
    let (labels, count) = (labels.display(), diagnostics.len());
    Err(Failure::new(format!("{labels}: {count} labels do not have the effect that they should")))
}

fn explain(
    source: &Source,
    method: &Method,
    url: &str,
    headers: HeaderMap,
    json: bool,
) -> Result<(), Failure> {
    let labels = match (&source.labels, &source.config) {
        (Some(labels), _) => labels.clone(),
        (None, Some(config)) => EdgeSettings::load(config)?.labels.ok_or_else(|| {
            let config = config.display();
            Failure::new(format!(
                "{config} names no labels file, and routes of a running engine cannot be told here"
            ))
        })?,
        (None, None) => unreachable!("clap wants one of them"),
    };
    let (table, diagnostics) = compile(&labels)?;
    let told = edgeproxy::explain(&table, &diagnostics, method, url, &headers, None);
    if json {
        daemon::print_json(&told)
    } else {
        daemon::print(&format!("{}\n", told.to_string().trim_end()))
    }
}
