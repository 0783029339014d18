//! `muster-worker generate`: continues a text with a checkpoint's model.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    path::PathBuf,
};

use muster_data::Tokenizer;
use muster_model::{GenerateOptions, SamplerOptions};

use crate::offline::{Fault, Loaded};

/// The tokenizer that a checkpoint carries.
const TOKENIZER: &str = "tokenizer.json";

/// What to continue, with what.
#[derive(clap::Args)]
pub struct Arguments {
    /// The checkpoint's directory
    #[arg(long)]
    checkpoint: String,
    /// The text to continue
    #[arg(long)]
    prompt: String,
    /// Most tokens to add
    #[arg(long, default_value_t = 100)]
    max_tokens: usize,
    /// Divides the logits; 0: always the likeliest token
    #[arg(long, default_value_t = 0.8, value_parser = parse_temperature)]
    temperature: f64,
    /// Consider only so many of the likeliest tokens; 0: all
    #[arg(long, default_value_t = 50)]
    top_k: usize,
    /// What draws are derived from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Always take the likeliest token
    #[arg(long)]
    greedy: bool,
    /// Another tokenizer.json than the checkpoint's
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(temperature) if temperature.is_finite() && temperature >= 0.0 => Ok(temperature),
        _ => Err("give a number that is not negative".into()),
    }
}

/// Returns the exit status.
pub fn run(arguments: Arguments) -> i32 {
    match generate(arguments) {
        Ok(()) => 0,
        Err(fault) => fault.tell(),
    }
}

fn generate(arguments: Arguments) -> Result<(), Fault> {
    let Loaded {
        directory,
        spec,
        model,
        ..
    } = Loaded::open(&arguments.checkpoint)?;
    if !spec.model.family.is_causal() {
        let family = spec.model.family.name();
        return Err(Fault::input(format!(
            "a model of the family {family:?} names masked tokens and does not continue a text; `muster eval logits` shows what it computes"
        )));
    }
    let tokenizer = arguments
        .tokenizer
        .unwrap_or_else(|| directory.join(TOKENIZER));
    let tokenizer = Tokenizer::from_file(&tokenizer).map_err(Fault::operation)?;
    if tokenizer.vocab_size() > spec.model.vocab_size {
        return Err(Fault::operation(format!(
            "the tokenizer has {} tokens and the model only {}: it belongs to another model",
            tokenizer.vocab_size(),
            spec.model.vocab_size
        )));
    }
    let mut prompt: Vec<i64> = tokenizer
        .encode(&arguments.prompt)
        .map_err(Fault::operation)?
        .into_iter()
        .map(i64::from)
        .collect();
    if prompt.is_empty() {
        prompt.push(tokenizer.end_of_text().into());
    }
    let options = GenerateOptions {
        max_tokens: arguments.max_tokens,
        sampler: SamplerOptions {
            temperature: if arguments.greedy {
                0.0
            } else {
                arguments.temperature
            },
            top_k: arguments.top_k,
            vocabulary: tokenizer.vocab_size() as usize,
            seed: arguments.seed,
        },
    };
    let end_of_text = i64::from(tokenizer.end_of_text());
    let mut text = Text::new(&tokenizer, &arguments.prompt);
    let mut outcome = Ok(());
    muster_model::generate(&*model, &prompt, &options, |id| {
        if id == end_of_text {
            return ControlFlow::Break(());
        }
        outcome = text.push(id);
        if outcome.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .map_err(Fault::operation)?;
    outcome.map_err(Fault::operation)?;
    text.finish().map_err(Fault::operation)
}

/// Prints a text as it grows. A character's bytes may be spread over several tokens: it is shown once it is whole.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    shown: usize,
    prompt: &'a str,
}

impl<'a> Text<'a> {
    fn new(tokenizer: &'a Tokenizer, prompt: &'a str) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            shown: 0,
            prompt,
        }
    }

    fn push(&mut self, id: i64) -> Result<(), Box<dyn std::error::Error>> {
        let mut out = io::stdout().lock();
        if self.ids.is_empty() {
            write!(out, "{}", self.prompt)?;
        }
        self.ids.push(u32::try_from(id)?);
        let text = self.tokenizer.decode(&self.ids)?;
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if let Some(fresh) = whole.get(self.shown..) {
            write!(out, "{fresh}")?;
            self.shown = whole.len();
        }
        Ok(out.flush()?)
    }

    fn finish(self) -> Result<(), Box<dyn std::error::Error>> {
        Ok(writeln!(io::stdout())?)
    }
}
