use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use muster_access::{Identity, Role, Secret, TokenError, TokenFile};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster token new anna --role submitter --file tokens.toml
  muster token new nodes --role node --file tokens.toml --out node-credentials
  muster token list --file tokens.toml
  muster token revoke anna --file tokens.toml

The file goes to `muster coordinator --tokens FILE`; it holds digests, not the tokens. The coordinator reads it when it \
starts, and may be restarted at any time: jobs go on meanwhile. Roles: a viewer looks at everything, a submitter also \
submits, stops and resumes jobs of the same name, an admin does all that people do, a node joins and works.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token, and note its digest
    #[command(after_help = "\
Examples:
  muster token new anna --role submitter --file tokens.toml
  muster token new nodes --role node --file tokens.toml --out node-credentials")]
    New {
        /// Whom it makes of its holder; jobs submitted with it are of this user
        name: String,
        /// viewer, submitter, admin or node
        #[arg(long)]
        role: Role,
        /// The coordinator's token file; made if it is not there
        #[arg(long, value_name = "FILE", env = "MUSTER_TOKENS")]
        file: PathBuf,
        /// Write it as `token` into this directory, for --credentials, and do not print it
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// How to print what was made
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List who has a token
    #[command(after_help = "\
Examples:
  muster token list --file tokens.toml
  muster token list --file tokens.toml -o json")]
    List {
        /// The coordinator's token file
        #[arg(long, value_name = "FILE", env = "MUSTER_TOKENS")]
        file: PathBuf,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Take a token back; in force from the coordinator's next start
    #[command(after_help = "\
Examples:
  muster token revoke anna --file tokens.toml")]
    Revoke {
        /// Whose
        name: String,
        /// The coordinator's token file
        #[arg(long, value_name = "FILE", env = "MUSTER_TOKENS")]
        file: PathBuf,
        /// How to print whose it was
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Makes, lists or revokes tokens.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::New {
            name,
            role,
            file,
            out,
            output,
        } => {
            let mut tokens = match file.exists() {
                true => TokenFile::read(&file).map_err(failure)?,
                false => TokenFile::default(),
            };
            let secret = Secret::generate()
                .map_err(|error| Failure::operation(format!("no randomness: {error}")))?;
            let identity = Identity {
                name: name.clone(),
                role,
            };
            tokens
                .add(identity, &secret, Timestamp::now())
                .map_err(failure)?;
            // The token is with its owner before anyone believes it.
            match &out {
                None if output == Output::Json => {
                    let token = secret.reveal();
                    output::json_line(&json!({ "name": name, "role": role, "token": token }))?;
                }
                None => output::line(secret.reveal())?,
                Some(directory) => {
                    if directory.join("token").exists() {
                        let message = format!("{} holds a token already", directory.display());
                        return Err(Failure::usage(message).help("choose another --out"));
                    }
                    secret.write(directory).map_err(|error| {
                        Failure::operation(format!("cannot write {}: {error}", directory.display()))
                    })?;
                }
            }
            tokens.write(&file).map_err(failure)?;
            match out {
                Some(directory) if output == Output::Json => output::json_line(
                    &json!({ "name": name, "role": role, "directory": directory }),
                ),
                // Only the token is on stdout, for a pipe.
                None => Ok(()),
                Some(directory) => output::line(format_args!(
                    "the token of {name} ({role}) is in {}; hand it over as --credentials {0}",
                    directory.display()
                )),
            }
        }
        Command::List { file, output } => {
            let tokens = TokenFile::read(&file).map_err(failure)?;
            if output == Output::Json {
                let all: Vec<_> = tokens
                    .holders()
                    .map(|(holder, created)| {
                        json!({ "name": holder.name, "role": holder.role, "created": created.to_string() })
                    })
                    .collect();
                return output::json(&all);
            }
            let mut table = output::table(["NAME", "ROLE", "CREATED"]);
            for (holder, created) in tokens.holders() {
                table.add_row([
                    holder.name,
                    holder.role.to_string(),
                    format!("{created:.0}"),
                ]);
            }
            output::line(table)
        }
        Command::Revoke { name, file, output } => {
            let mut tokens = TokenFile::read(&file).map_err(failure)?;
            tokens.revoke(&name).map_err(failure)?;
            tokens.write(&file).map_err(failure)?;
            if output == Output::Json {
                return output::json_line(&json!({ "name": name }));
            }
            output::line(format_args!(
                "the token of {name} is revoked; restart the coordinator, jobs go on meanwhile"
            ))
        }
    }
}

fn failure(error: TokenError) -> Failure {
    match error {
        TokenError::Io { .. } => Failure::operation(error),
        _ => Failure::usage(error),
    }
}
