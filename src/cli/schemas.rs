//! `keyferry schemas`: the schemas of this build in the registry.

use clap::Subcommand;
use keyferry_runtime::{exit::Fatal, registry::Registry};

use super::{KafkaArgs, out, table};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Registers every schema of this build, once per release and before its roles start
    #[command(after_help = "Example: keyferry schemas register --config keyferry.yaml")]
    Register {
        /// Where the registry is
        #[command(flatten)]
        registry: KafkaArgs,
        /// Says which schemas would be registered, and registers none
        #[arg(long)]
        dry_run: bool,
    },
    /// Says whether every schema is registered and compatible; changes nothing
    #[command(after_help = "Example: keyferry schemas check --config keyferry.yaml")]
    Check(KafkaArgs),
}

/// Runs a command.
///
/// # Errors
/// [`Fatal`]: there is no registry, or it does not answer, or it does not know what it has to know.
pub fn run(command: &Command) -> Result<(), Fatal> {
    let (Command::Register { registry: args, .. } | Command::Check(args)) = command;
    if args.file.only_checked()? {
        return Ok(());
    }
    match command {
        Command::Register { registry: args, dry_run: true } => would_register(&registry(args)?),
        Command::Register { registry: args, dry_run: false } => register(&registry(args)?),
        Command::Check(args) => check(&registry(args)?),
    }
}

fn registry(args: &KafkaArgs) -> Result<Registry, Fatal> {
    Ok(Registry::new(&args.registry()?)?)
}

fn register(registry: &Registry) -> Result<(), Fatal> {
    let rows: Vec<_> =
        registry.register()?.into_iter().map(|(subject, id)| [subject, id.to_string()]).collect();
    out(table(["subject", "id"], &rows))
}

fn would_register(registry: &Registry) -> Result<(), Fatal> {
    for schema in registry.check()? {
        match (schema.id, schema.compatible) {
            (Some(id), _) => out(format_args!("{} is registered as {id}", schema.subject))?,
            (None, true) => out(format_args!("would register {}", schema.subject))?,
            (None, false) => {
                let subject = schema.subject;
                return Err(Fatal::failure(format_args!(
                    "{subject} is not compatible with what is registered"
                )));
            }
        }
    }
    Ok(())
}

fn check(registry: &Registry) -> Result<(), Fatal> {
    let checked = registry.check()?;
    let rows: Vec<_> = checked
        .iter()
        .map(|c| {
            let id = c.id.map_or_else(|| "not registered".into(), |id| id.to_string());
            [c.subject.clone(), id, if c.compatible { "yes".into() } else { "no".into() }]
        })
        .collect();
    out(table(["subject", "id", "compatible"], &rows))?;
    let names = |bad: &dyn Fn(&keyferry_runtime::registry::Checked) -> bool| {
        checked.iter().filter(|c| bad(c)).map(|c| c.subject.clone()).collect::<Vec<_>>().join(", ")
    };
    let incompatible = names(&|c| !c.compatible);
    if !incompatible.is_empty() {
        return Err(Fatal::failure(format_args!("not compatible with what is registered: {incompatible}")));
    }
    let missing = names(&|c| c.id.is_none());
    if !missing.is_empty() {
        return Err(Fatal::config(format_args!(
            "not registered: {missing}; run `keyferry schemas register`"
        )));
    }
    Ok(())
}
