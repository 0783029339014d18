use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::{
    cli::{self, Cli},
    failure::Failure,
    output,
};

/// Arguments of `muster completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(muster completions bash)                     # for this shell; in ~/.bashrc for all
  muster completions zsh > ~/.zfunc/_muster             # a directory of your $fpath
  muster completions fish > ~/.config/fish/completions/muster.fish")]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints what a shell needs to complete `muster`.
pub fn run(args: Args) -> Result<(), Failure> {
    output::raw(&script(args.shell))
}

fn script(shell: Shell) -> Vec<u8> {
    // Into memory first: it would panic at a pipe that is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&Cli::command()), "muster", &mut script);
    script
}

/// The command without those of its parts that are not for people: clap's scripts would offer them.
fn visible(command: &Command) -> Command {
    let parts = command.get_subcommands().filter(|it| !it.is_hide_set());
    Command::new("muster")
        .version(cli::VERSION)
        .disable_help_subcommand(true)
        .args(command.get_arguments())
        .subcommands(parts)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_the_visible_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8_lossy(&script(*shell)).into_owned();
            for word in ["cancel", "checkpoint", "verify", "coordinator"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("shim"), "{shell}");
        }
    }
}
