//! `cargo xtask test`: every check of the project, in the order in which a failure is cheapest.
//!
//! A tier is a named list of checks. Without names all tiers run; a name runs that one. The first failure ends the run,
//! and says which tier it was and how to run it alone.

use crate::{ebpf, fakenic, lab, packages, proto, shell, shell::Step, vm, vm::Clock, vocabulary};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The kernels besides the running one that the kernel half must work on.
const KERNELS: &[&str] = &["6.1", "6.12"];

/// Options of `test`.
#[derive(clap::Args)]
pub struct Options {
    /// Only these tiers
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Build the kernel half from source, and test with that instead of the object kept in the repository
    #[arg(long)]
    from_source: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Format, lints, dependencies, generated code
    Style,
    /// Unit and integration tests of every crate, on the running kernel
    Crates,
    /// The kernel half on the other kernels of the matrix
    Kernels,
    /// Units and manifests: the quick part of `system`
    Deploy,
    /// A fabric in network namespaces, broken: the part of `system` that needs FRR
    Lab,
    /// Both daemons and the command together, with real peers; units and manifests; the lab
    System,
}

const ALL: &[Tier] = &[Tier::Style, Tier::Crates, Tier::Kernels, Tier::System];

/// Runs the tiers.
pub fn test(options: &Options) -> Result<()> {
    let tiers = if options.tiers.is_empty() { ALL } else { &options.tiers };
    packages::install(packages::TESTS)?;
    let mut environment = Environment::new()?;
    if options.from_source {
        let step = Step::begin("build the kernel half from source");
        environment.objects = Some(ebpf::build_apart()?);
        step.done();
    }
    let start = Instant::now();
    for tier in tiers {
        eprintln!("\nxtask: ==== {tier:?} ====");
        match tier {
            Tier::Style => style(),
            Tier::Crates => environment.cargo_test(&["--workspace", "--exclude", "railwatch-tests"]),
            Tier::Kernels => kernels(&environment),
            Tier::Deploy => environment.cargo_test(&["--package", "railwatch-tests", "--test", "deploy"]),
            Tier::Lab => system(&environment, &["--test", "lab"]),
            Tier::System => system(&environment, &[]),
        }
        .with_context(|| {
            let name = format!("{tier:?}").to_lowercase();
            format!("tier {name} failed; alone: cargo xtask test {name}")
        })?;
    }
    eprintln!("\nxtask: all of {tiers:?} passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What the tests find in their environment.
struct Environment {
    python: PathBuf,
    prometheus: PathBuf,
    lldpd: PathBuf,
    /// Folder of kernel halves built from source.
    objects: Option<PathBuf>,
}

impl Environment {
    fn new() -> Result<Self> {
        let prometheus = std::path::absolute("target/prometheus")?;
        packages::unpacked(&prometheus, &["prometheus"], false)?;
        packages::libcudart()?;
        Ok(Self {
            python: packages::python()?,
            prometheus: prometheus.join("usr/bin"),
            lldpd: packages::lldpd()?,
            objects: None,
        })
    }

    fn apply(&self, command: &mut Command) {
        command.env("RAILWATCH_PYTHON", &self.python).env("RAILWATCH_PROMETHEUS_BIN", &self.prometheus);
        command.env(packages::LLDPD, &self.lldpd);
        command.envs(self.kernel_halves());
    }

    /// Which variable names which kernel half built from source.
    fn kernel_halves(&self) -> Vec<(&'static str, PathBuf)> {
        let of = |folder: &PathBuf| ebpf::VARIABLES.map(|(variable, program)| (variable, folder.join(program)));
        self.objects.iter().flat_map(of).collect()
    }

    fn cargo_test(&self, arguments: &[&str]) -> Result<()> {
        self.cargo_test_with(arguments, &[])
    }

    fn cargo_test_with(&self, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
        let mut command = Command::new("cargo");
        command.arg("test").args(arguments).envs(environment.iter().cloned());
        self.apply(&mut command);
        shell::run(&mut command)
    }
}

fn style() -> Result<()> {
    shell::run(Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    shell::run(Command::new("cargo").args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    proto::check()?;
    ebpf::check()?;
    vocabulary::check()?;
    // Advisories need a database from the network; the rest is decided by what is here.
    let deny = packages::cargo_tool("cargo-deny", "0.20.2", &["--debug"], &[])?;
    shell::run(Command::new(deny).args(["--all-features", "check", "bans", "licenses", "sources"]))
}

/// What the names of tests begin with that judge times: they have a machine of exact time.
const EXACT: &str = "exact_";

/// What depends on the kernel most, built here, run there.
fn kernels(environment: &Environment) -> Result<()> {
    for (variable, object) in environment.kernel_halves() {
        // SAFETY: nothing else runs in this process that reads or writes the environment.
        unsafe { std::env::set_var(variable, object) };
    }
    let fake_nics = KERNELS.iter().map(|kernel| fakenic::built(kernel)).collect::<Result<Vec<_>>>()?;
    let (perftest, verbs) = (packages::perftest()?, packages::verbs()?);
    const PACKAGES: &[&str] = &[
        "railwatch-gpu",
        "railwatch-nic",
        "railwatch-optics-source",
        "railwatch-drops",
        "railwatch-probe",
        "railwatch-peers",
        "railwatch-inventory",
        "railwatch-disk",
        "railwatch-health",
    ];
    let mut binaries = Vec::new();
    for package in PACKAGES {
        let found = test_binaries(package, "kernel_")?;
        ensure!(!found.is_empty(), "{package} has no tests named kernel_*");
        binaries.extend(found);
    }
    // A guest seldom keeps more than one processor busy: the kernels have theirs side by side.
    std::thread::scope(|scope| {
        let running: Vec<_> = KERNELS
            .iter()
            .zip(&fake_nics)
            .map(|(kernel, fake_nic)| scope.spawn(|| on_kernel(kernel, &binaries, [fake_nic, &perftest, &verbs])))
            .collect();
        // All are waited for, so that each kernel's failure is seen.
        let ends: Vec<_> = running.into_iter().map(|thread| thread.join().expect("a tier's thread ended")).collect();
        ends.into_iter().collect()
    })
}

/// Runs these test binaries on `kernel`, one after the other, with what is made for them: a network card, perftest, libibverbs.
fn on_kernel(kernel: &str, binaries: &[PathBuf], [fake_nic, perftest, verbs]: [&Path; 3]) -> Result<()> {
    for binary in binaries {
        let name = binary.file_name().unwrap_or_default().display();
        let step = Step::begin(&format!("kernel {kernel}: {name}"));
        // Ignored on the running kernel are those that want a machine to themselves: this one is theirs.
        let mut runs = vec![(Clock::Host, vec!["--include-ignored", "--skip", EXACT])];
        if shell::output(Command::new(binary).args(["--list", "--ignored", EXACT]))?.contains(EXACT) {
            runs.push((Clock::Exact, vec!["--ignored", EXACT]));
        }
        for (clock, arguments) in runs {
            let program = binary.display().to_string();
            let command: Vec<_> =
                [program.as_str(), "--test-threads=1"].into_iter().chain(arguments).map(str::to_owned).collect();
            let environment = [(fakenic::VARIABLE, fake_nic), (packages::PERFTEST, perftest), (packages::VERBS, verbs)];
            let mut output = shell::Prefixed::new(format!("{kernel}: "));
            let status = vm::run(kernel, 4096, clock, &command, &environment, &mut output)?;
            ensure!(status == 0, "kernel {kernel}: {name} ended with status {status}");
        }
        step.done();
    }
    Ok(())
}

/// The integration test binaries of `package` whose names begin with `prefix`, built.
fn test_binaries(package: &str, prefix: &str) -> Result<Vec<PathBuf>> {
    let messages = shell::output(Command::new("cargo").args([
        "test",
        "--package",
        package,
        "--no-run",
        "--message-format",
        "json",
    ]))?;
    let mut found = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        if let Some(executable) = message["executable"].as_str()
            && name.starts_with(prefix)
        {
            found.push(executable.into());
        }
    }
    found.sort();
    Ok(found)
}

/// The daemons as they are shipped, but unoptimised: what is tested is what they do.
fn system(environment: &Environment, which: &[&str]) -> Result<()> {
    let packages = ["railwatch-agent", "railwatch-collector", "railwatch", "railwatch-lab"];
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    shell::run(Command::new("cargo").arg("build").args(packages))?;
    let lab = [(lab::ROUTING, packages::routing()?), (lab::LIBRARIES, lab::libraries()?)];
    let threads = ["--", "--test-threads=1", "--nocapture"];
    environment.cargo_test_with(&[&["--package", "railwatch-tests"], which, &threads].concat(), &lab)
}
