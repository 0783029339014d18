//! Hugging Face's words for what this crate knows: `config.json` and the names of tensors. Pure: texts and names in, texts and
//! names out; who reads and writes the files is elsewhere.

mod export;
mod import;
mod tensors;

pub use export::{ExportError, hugging_face_config, hugging_face_name};
pub use import::{ImportError, model_config};
pub use tensors::{Mismatch, TensorMatch, match_tensors};

/// Model classes of Hugging Face that can be read.
pub const ARCHITECTURES: [&str; 9] = [
    "GPT2LMHeadModel",
    "GPT2Model",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertModel",
];
