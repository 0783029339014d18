//! What people see when a spec is wrong, word for word.
#![allow(clippy::unwrap_used)]

use miette::{GraphicalReportHandler, GraphicalTheme};
use muster_spec::{Format, RunSpec, SpecError, load};

fn render(error: &SpecError) -> String {
    let handler =
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
    let mut out = String::new();
    handler.render_report(&mut out, error).unwrap();
    out.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

fn wrong(text: &str) -> String {
    render(&load(text, "run.toml", Format::Toml, [], &[]).unwrap_err())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

const DATA: &str = "[data]\npath = \"data/shakespeare\"\n";

#[test]
fn unknown_keys_and_sections_show_the_line_and_what_was_meant() {
    insta::assert_snapshot!(wrong(&format!(
        "{DATA}\n[train]\nstepz = 100\nlearning_rate = 0.1\n\n[trian]\nsteps = 3\n[other]\nx = 1\n"
    )), @r#"
  × run.toml has 4 problems

Error:
  × unknown key `train.stepz`
   ╭─[run.toml:5:1]
 4 │ [train]
 5 │ stepz = 100
   · ─────
 6 │ learning_rate = 0.1
   ╰────
  help: did you mean `steps`?

Error:
  × unknown key `train.learning_rate`
   ╭─[run.toml:6:1]
 5 │ stepz = 100
 6 │ learning_rate = 0.1
   · ─────────────
 7 │
   ╰────
  help: `learning_rate` belongs in [optimizer]

Error:
  × unknown section [trian]
   ╭─[run.toml:8:2]
 7 │
 8 │ [trian]
   ·  ─────
 9 │ steps = 3
   ╰────
  help: did you mean [train]?

Error:
  × unknown section [other]
    ╭─[run.toml:10:2]
  9 │ steps = 3
 10 │ [other]
    ·  ─────
 11 │ x = 1
    ╰────
  help: the sections are model, init, data, train, optimizer, schedule, evaluation, workers, checkpoint,
        queue, network, guard
"#);
}

#[test]
fn wrong_types_show_the_value_and_an_example() {
    insta::assert_snapshot!(wrong(&format!(
        "train = 5\n[optimizer]\nlearning_rate = \"fast\"\nbeta1 = true\n[workers]\nmin = 1.5\nmax = []\n{DATA}"
    )), @r#"
  × run.toml has 5 problems

Error:
  × `train` is a section, but here it is the number 5
   ╭─[run.toml:1:9]
 1 │ train = 5
   ·         ─
 2 │ [optimizer]
   ╰────
  help: set its keys, such as `train.steps`

Error:
  × `optimizer.learning_rate` must be a number, but is the text "fast"
   ╭─[run.toml:3:17]
 2 │ [optimizer]
 3 │ learning_rate = "fast"
   ·                 ──────
 4 │ beta1 = true
   ╰────
  help: for example `learning_rate = 0.0006` in [optimizer]

Error:
  × `optimizer.beta1` must be a number, but is true
   ╭─[run.toml:4:9]
 3 │ learning_rate = "fast"
 4 │ beta1 = true
   ·         ────
 5 │ [workers]
   ╰────
  help: for example `beta1 = 0.9` in [optimizer]

Error:
  × `workers.min` must be a whole number, but is the number 1.5
   ╭─[run.toml:6:7]
 5 │ [workers]
 6 │ min = 1.5
   ·       ───
 7 │ max = []
   ╰────
  help: for example `min = 1` in [workers]

Error:
  × `workers.max` must be a whole number, but is a list
   ╭─[run.toml:7:7]
 6 │ min = 1.5
 7 │ max = []
   ·       ──
 8 │ [data]
   ╰────
  help: for example `max = 1` in [workers]
"#);
}

#[test]
fn values_out_of_range_show_the_range() {
    insta::assert_snapshot!(wrong(&format!(
        "{DATA}[train]\nsteps = 0\nglobal_batch = -4\nmicro_batch = 5_000_000_000\n[optimizer]\nlearning_rate = 0.0\nbeta2 = 1.0\nclip_norm = inf\n"
    )), @r#"
  × run.toml has 6 problems

Error:
  × `train.steps` is 0, but must be at least 1
   ╭─[run.toml:4:9]
 3 │ [train]
 4 │ steps = 0
   ·         ─
 5 │ global_batch = -4
   ╰────
  help: for example `steps = 1000` in [train]

Error:
  × `train.global_batch` is -4, but must be at least 1
   ╭─[run.toml:5:16]
 4 │ steps = 0
 5 │ global_batch = -4
   ·                ──
 6 │ micro_batch = 5_000_000_000
   ╰────
  help: for example `global_batch = 16` in [train]

Error:
  × `train.micro_batch` is 5000000000, but must be at most 4294967295
   ╭─[run.toml:6:15]
 5 │ global_batch = -4
 6 │ micro_batch = 5_000_000_000
   ·               ─────────────
 7 │ [optimizer]
   ╰────
  help: for example `micro_batch = 4` in [train]

Error:
  × `optimizer.learning_rate` is 0, but must be above 0
   ╭─[run.toml:8:17]
 7 │ [optimizer]
 8 │ learning_rate = 0.0
   ·                 ───
 9 │ beta2 = 1.0
   ╰────
  help: for example `learning_rate = 0.0006` in [optimizer]

Error:
  × `optimizer.beta2` is 1, but must be below 1
    ╭─[run.toml:9:9]
  8 │ learning_rate = 0.0
  9 │ beta2 = 1.0
    ·         ───
 10 │ clip_norm = inf
    ╰────
  help: for example `beta2 = 0.95` in [optimizer]

Error:
  × `optimizer.clip_norm` is inf, but must be finite
    ╭─[run.toml:10:13]
  9 │ beta2 = 1.0
 10 │ clip_norm = inf
    ·             ───
    ╰────
  help: for example `clip_norm = 1.0` in [optimizer]
"#);
}

#[test]
fn words_that_do_not_exist_list_those_that_do() {
    insta::assert_snapshot!(wrong(&format!(
        "{DATA}[train]\nreduction = \"quick\"\ndtype = \"bf-16\"\n[model]\nfamily = \"lama\"\n[schedule]\nkind = \"step\"\n"
    )), @r#"
  × run.toml has 4 problems

Error:
  × `train.reduction` is "quick", but must be "fast" or "canonical"
   ╭─[run.toml:4:13]
 3 │ [train]
 4 │ reduction = "quick"
   ·             ───────
 5 │ dtype = "bf-16"
   ╰────
  help: for example `reduction = "canonical"` in [train]

Error:
  × `train.dtype` is "bf-16", but must be "fp32" or "bf16"
   ╭─[run.toml:5:9]
 4 │ reduction = "quick"
 5 │ dtype = "bf-16"
   ·         ───────
 6 │ [model]
   ╰────
  help: did you mean "bf16"?

Error:
  × `model.family` is "lama", but must be "gpt2", "llama" or "bert"
   ╭─[run.toml:7:10]
 6 │ [model]
 7 │ family = "lama"
   ·          ──────
 8 │ [schedule]
   ╰────
  help: did you mean "llama"?

Error:
  × `schedule.kind` is "step", but must be "cosine", "linear", "wsd" or "constant"
   ╭─[run.toml:9:8]
 8 │ [schedule]
 9 │ kind = "step"
   ·        ──────
   ╰────
  help: for example `kind = "cosine"` in [schedule]
"#);
}

#[test]
fn text_that_is_no_toml_shows_the_place() {
    insta::assert_snapshot!(wrong("[train]\nsteps = = 4\n"), @r#"
 × run.toml cannot be parsed: extra `=`, expected nothing
  ╭─[run.toml:2:9]
1 │ [train]
2 │ steps = = 4
  ·         ┬
  ·         ╰── here
  ╰────
"#);
}

#[test]
fn values_that_do_not_go_together_are_all_said_at_once() {
    insta::assert_snapshot!(wrong(
        "[train]\nsteps = 10\nglobal_batch = 16\nmicro_batch = 4\n[workers]\nmin = 9\nmax = 8\n[schedule]\nwarmup_steps = 11\n\
         [model]\nheads = 3\n[checkpoint]\nuri = \"s3://bucket/runs\"\n"
    ), @r#"
  × run.toml has 6 problems

Error:
  × model.heads (3) does not divide model.hidden_size (256)
    ╭─[run.toml:11:9]
 10 │ [model]
 11 │ heads = 3
    ·         ─
 12 │ [checkpoint]
    ╰────
  help: choose a hidden size that is a multiple of the heads

Error:
  × `data.path` is not set
  help: set it to a directory that `muster data prepare` has made, such as `path = "data/shakespeare"` in
        [data]

Error:
  × `checkpoint.uri` is "s3://bucket/runs", but this version keeps checkpoints in directories only: a path
  │ or file:///absolute/path
    ╭─[run.toml:13:7]
 12 │ [checkpoint]
 13 │ uri = "s3://bucket/runs"
    ·       ──────────────────
    ╰────
  help: name a directory that every node reaches, or leave the key out: they then lie below the run's own
        directory

Error:
  × `workers.min` (9) is above `workers.max` (8)
   ╭─[run.toml:6:7]
 5 │ [workers]
 6 │ min = 9
   ·       ─
 7 │ max = 8
   ·       ─
 8 │ [schedule]
   ╰────
  help: raise workers.max or lower workers.min

Error:
  × `workers.max` (8) is above the slots of the batch (4 = train.global_batch 16 / train.micro_batch 4)
   ╭─[run.toml:3:16]
 2 │ steps = 10
 3 │ global_batch = 16
   ·                ──
 4 │ micro_batch = 4
   ·               ─
 5 │ [workers]
 6 │ min = 9
 7 │ max = 8
   ·       ─
 8 │ [schedule]
   ╰────
  help: every worker trains at least one micro-batch a step: set workers.max to 4 or less, raise
        train.global_batch, or lower train.micro_batch

Error:
  × `schedule.warmup_steps` (11) is above `train.steps` (10)
   ╭─[run.toml:2:9]
 1 │ [train]
 2 │ steps = 10
   ·         ──
 3 │ global_batch = 16
   ╰────
    ╭─[run.toml:9:16]
  8 │ [schedule]
  9 │ warmup_steps = 11
    ·                ──
 10 │ [model]
    ╰────
  help: the learning rate would never reach its peak: lower the warm-up, or train longer
"#);
}

#[test]
fn overrides_and_variables_are_named() {
    let overrides = pairs(&[("train.stepz", "5"), ("train.seed", "x"), ("workers", "2")]);
    let environment = pairs(&[
        ("MUSTER__OPTIMIZER__BETA1", "2"),
        ("MUSTER__DATA", "here"),
        ("MUSTER_COORDINATOR", "http://localhost"),
        ("MUSTER__TRAIN__STEPS", "7"),
    ]);
    let errors = load(DATA, "run.toml", Format::Toml, environment, &overrides).unwrap_err();
    insta::assert_snapshot!(render(&errors), @r#"
  × run.toml has 5 problems

Error:
  × MUSTER__DATA=here: `data` is a section, not a key
  help: name one of its keys, such as `data.path`

Error:
  × MUSTER__OPTIMIZER__BETA1=2: `optimizer.beta1` is 2, but must be below 1
  help: for example `beta1 = 0.9` in [optimizer]

Error:
  × --set train.stepz=5: unknown key `train.stepz`
  help: did you mean `steps`?

Error:
  × --set train.seed=x: `train.seed` must be a whole number, but is the text "x"
  help: for example `seed = 1` in [train]

Error:
  × --set workers=2: `workers` is a section, not a key
  help: name one of its keys, such as `workers.min`
"#);
}

#[test]
fn a_contradiction_names_the_override_that_made_it() {
    let overrides = pairs(&[("workers.max", "64")]);
    let text = format!("{DATA}[train]\nglobal_batch = 16\nmicro_batch = 4\n");
    let errors = load(&text, "run.toml", Format::Toml, [], &overrides).unwrap_err();
    insta::assert_snapshot!(render(&errors), @r#"
 × `workers.max` (64) is above the slots of the batch (4 = train.global_batch 16 / train.micro_batch 4)
 │ [--set workers.max=64]
  ╭─[run.toml:4:16]
3 │ [train]
4 │ global_batch = 16
  ·                ──
5 │ micro_batch = 4
  ·               ─
  ╰────
 help: every worker trains at least one micro-batch a step: set workers.max to 4 or less, raise
       train.global_batch, or lower train.micro_batch
"#);
}

#[test]
fn yaml_and_json_are_checked_alike() {
    let yaml = load("train:\n  stepz: 4\n", "run.yaml", Format::Yaml, [], &[]).unwrap_err();
    let json = load(
        "{\"train\": {\"steps\": \"4\"}}",
        "run.json",
        Format::Json,
        [],
        &[],
    )
    .unwrap_err();
    let broken = load("{\n\"train\": {", "run.json", Format::Json, [], &[]).unwrap_err();
    insta::assert_snapshot!(format!(
        "{}\n{}\n{}",
        render(&yaml),
        render(&json),
        render(&broken)
    ), @r#"
 × run.yaml: unknown key `train.stepz`
 help: did you mean `steps`?
 × run.json: `train.steps` must be a whole number, but is the text "4"
 help: for example `steps = 1000` in [train]
 × run.json cannot be parsed: EOF while parsing an object at line 2 column 10
  ╭─[run.json:2:1]
1 │ {
2 │ "train": {
  · ─────┬────
  ·      ╰── here
  ╰────
"#);
}

#[test]
fn a_spec_from_elsewhere_is_validated_in_one_line() {
    let mut spec = RunSpec::default();
    spec.train.steps = 0;
    spec.optimizer.learning_rate = f64::NAN;
    spec.workers.max = 100;
    insta::assert_snapshot!(spec.validate().unwrap_err().to_string(), @r#"`train.steps` is 0, but must be at least 1 (for example `steps = 1000` in [train]); `optimizer.learning_rate` must be a number, but is infinite or not a number at all (for example `learning_rate = 0.0006` in [optimizer]); `data.path` is not set (set it to a directory that `muster data prepare` has made, such as `path = "data/shakespeare"` in [data]); `workers.max` (100) is above the slots of the batch (4 = train.global_batch 16 / train.micro_batch 4) (every worker trains at least one micro-batch a step: set workers.max to 4 or less, raise train.global_batch, or lower train.micro_batch)"#);
}

#[test]
fn a_priority_out_of_range_and_a_user_that_is_no_name() {
    insta::assert_snapshot!(wrong(&format!(
        "{DATA}\n[queue]\npriority = -101\npreempt_grace_seconds = 0\n"
    )), @"
  × run.toml has 2 problems

Error:
  × `queue.priority` is -101, but must be at least -100
   ╭─[run.toml:5:12]
 4 │ [queue]
 5 │ priority = -101
   ·            ────
 6 │ preempt_grace_seconds = 0
   ╰────
  help: for example `priority = 0` in [queue]

Error:
  × `queue.preempt_grace_seconds` is 0, but must be at least 1
   ╭─[run.toml:6:25]
 5 │ priority = -101
 6 │ preempt_grace_seconds = 0
   ·                         ─
   ╰────
  help: for example `preempt_grace_seconds = 60` in [queue]
");
    insta::assert_snapshot!(wrong(&format!("{DATA}\n[queue]\nuser = \"an\\tna\"\n")), @r#"
  × `queue.user` is "an\tna", but it is shown in lists
   ╭─[run.toml:5:8]
 4 │ [queue]
 5 │ user = "an\tna"
   ·        ────────
   ╰────
  help: give a name without control characters, and without spaces around it
"#);
}

#[test]
fn an_interface_that_cannot_be_one() {
    insta::assert_snapshot!(wrong(&format!("{DATA}\n[network]\ninterface = \"eth0,eth1\"\n")), @r#"
  × `network.interface` is "eth0,eth1", but no interface has such a name
   ╭─[run.toml:5:13]
 4 │ [network]
 5 │ interface = "eth0,eth1"
   ·             ───────────
   ╰────
  help: give one that `ip link` lists on every node, or leave it empty
"#);
}

#[test]
fn an_objective_that_the_family_cannot_learn() {
    let wrong = |model: &str, objective: &str| {
        let text = format!("{DATA}[model]\n{model}\n[train]\nobjective = \"{objective}\"\n");
        let error = load(&text, "run.toml", Format::Toml, [], &[]).unwrap_err();
        format!("{}; {}", error.message, error.fix)
    };
    insta::assert_snapshot!(wrong("family = \"gpt2\"", "masked"), @r#"`train.objective` is "masked", but places of the family "gpt2" do not see what follows them; set model.family to "bert", or leave train.objective out"#);
    insta::assert_snapshot!(wrong("family = \"bert\"", "causal"), @r#"`train.objective` is "causal", but places of the family "bert" see the tokens that they would have to predict; set train.objective to "masked""#);
    insta::assert_snapshot!(wrong("family = \"bert\"\npooler = true", "masked"), @"`model.pooler` is true, but nothing that masked tokens teach reaches it; leave it out; a checkpoint that has one can still be started from");
    insta::assert_snapshot!(wrong("family = \"bert\"\nmlm_head = false", "masked"), @"`model.mlm_head` is false, but it is what names masked tokens; leave it out");
}
