use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokenizers::{
    AddedToken, NormalizerWrapper, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

/// What the tokenizers made here write after a document, as GPT-2's does.
const END_OF_TEXT: &str = "<|endoftext|>";
/// How widespread tokenizers call it; the first that a tokenizer knows is taken.
const END_OF_TEXT_NAMES: [&str; 6] = [
    END_OF_TEXT,
    "<|end_of_text|>",
    "<|eot_id|>",
    "</s>",
    "<eos>",
    "[SEP]",
];
/// How widespread tokenizers call what stands for a hidden token.
const MASK_NAMES: [&str; 2] = ["[MASK]", "<mask>"];
/// Tokens of the byte tokenizer before its end-of-text token.
const BYTES: u32 = 256;
/// The smallest vocabulary of a trained tokenizer: all bytes and the end-of-text token.
pub(crate) const MIN_BPE_VOCABULARY: u32 = BYTES + 1;

/// Why a tokenizer cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that cannot be read.
    #[error("cannot read the tokenizer {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no tokenizer.
    #[error("{} is not a tokenizer.json that can be used: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that is no tokenizer.
    #[error("not a tokenizer.json that can be used: {0}")]
    Invalid(String),
    /// Nothing to put between documents.
    #[error(
        "the tokenizer has no end-of-text token; it needs one of <|endoftext|>, <|end_of_text|>, <|eot_id|>, </s>, <eos> or [SEP]"
    )]
    NoEndOfText,
    /// The tokenizer refused a text.
    #[error("the tokenizer could not encode a text: {0}")]
    Encode(String),
    /// The tokenizer refused ids.
    #[error("the tokenizer could not decode tokens: {0}")]
    Decode(String),
    /// Training gave up.
    #[error("could not train a tokenizer: {0}")]
    Train(String),
}

/// Text to tokens and back. Cheap to clone; may be shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    alphabet: Alphabet,
    end_of_text: u32,
    vocab_size: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Alphabet {
    /// Token id = byte: no need to ask the library, which takes a hundred times as long.
    Bytes,
    Library,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads a `tokenizer.json` of the `tokenizers` library.
    ///
    /// # Errors
    /// When the file cannot be read, is no tokenizer, or has no end-of-text token.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let json = fs::read(path).map_err(|source| TokenizerError::Unreadable {
            path: path.into(),
            source,
        })?;
        Self::from_json(&json).map_err(|error| match error {
            TokenizerError::Invalid(reason) => TokenizerError::Malformed {
                path: path.into(),
                reason,
            },
            error => error,
        })
    }

    /// As [`Self::from_file`], from the file's content.
    ///
    /// # Errors
    /// When it is no tokenizer, or has no end-of-text token.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let tokenizer = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| TokenizerError::Invalid(e.to_string()))?;
        let alphabet = if json == byte_tokenizer_json()?.as_bytes() {
            Alphabet::Bytes
        } else {
            Alphabet::Library
        };
        Self::new(tokenizer, alphabet)
    }

    fn new(mut inner: tokenizers::Tokenizer, alphabet: Alphabet) -> Result<Self, TokenizerError> {
        // A file may ask for padding or truncation, and a text may spell special tokens: a corpus wants none of these.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
        inner.set_encode_special_tokens(true);
        let name = END_OF_TEXT_NAMES
            .iter()
            .find_map(|name| inner.token_to_id(name));
        let end_of_text = name.ok_or(TokenizerError::NoEndOfText)?;
        // Ids may have holes, so counting them would not do.
        let vocab_size = inner
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&largest| largest + 1);
        Ok(Self {
            inner: Arc::new(inner),
            alphabet,
            end_of_text,
            vocab_size,
        })
    }

    /// The tokens of a text, and nothing else: special tokens spelled out in the text stay text.
    ///
    /// # Errors
    /// When the tokenizer has no token for some part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if self.alphabet == Alphabet::Bytes {
            return Ok(text.bytes().map(u32::from).collect());
        }
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens. Special tokens are left out; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer's decoder gives up.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, true)
            .map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The token after each document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// What stands for a hidden token: the tokenizer's own mask token, or the id after its last one, for which a model then needs a
    /// row.
    pub fn mask_id(&self) -> u32 {
        let mut names = MASK_NAMES.iter();
        names
            .find_map(|name| self.inner.token_to_id(name))
            .unwrap_or(self.vocab_size)
    }

    /// Tokens that stand for no text: ends of documents, padding and the like.
    pub fn special_ids(&self) -> BTreeSet<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        special
            .map(|(&id, _)| id)
            .chain([self.end_of_text])
            .collect()
    }

    /// How the tokenizer writes the end-of-text token.
    pub fn end_of_text_name(&self) -> String {
        self.inner.id_to_token(self.end_of_text).unwrap_or_default()
    }
}

/// The byte tokenizer as a `tokenizer.json`: byte-level BPE without merges, token id = byte, 256 = end of text.
pub(crate) fn byte_tokenizer_json() -> Result<String, TokenizerError> {
    let characters = byte_characters();
    let vocabulary: [_; BYTES as usize] =
        std::array::from_fn(|byte| (characters[byte].to_string(), byte as u32));
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, vec![])
        .build()
        .map_err(|error| TokenizerError::Train(error.to_string()))?;
    finish(byte_level(model, Words::Whole)?)
}

/// Trains a byte-level BPE tokenizer of at most `vocab_size` tokens (fewer if the texts have no more pairs to merge) and
/// gives it as a `tokenizer.json`. The order of the texts does not matter. Runs on the calling thread pool.
pub(crate) fn train_bpe_json(
    vocab_size: u32,
    texts: impl Iterator<Item = String> + Send,
) -> Result<String, TokenizerError> {
    let train = |error: tokenizers::Error| TokenizerError::Train(error.to_string());
    let mut tokenizer = byte_level(BPE::default(), Words::Gpt2)?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        // The end-of-text token comes last, as in GPT-2.
        .vocab_size(vocab_size as usize - 1)
        .min_frequency(2)
        .initial_alphabet(byte_characters().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts).map_err(train)?;
    finish(tokenizer)
}

/// How text is cut before merging.
enum Words {
    /// Not at all.
    Whole,
    /// With GPT-2's expression: letters, digits, other, each with one leading space.
    Gpt2,
}

type ByteLevelBpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>;

fn byte_level(model: BPE, words: Words) -> Result<ByteLevelBpe, TokenizerError> {
    let level = ByteLevel::new(false, false, matches!(words, Words::Gpt2));
    TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(None)
        .with_pre_tokenizer(Some(level))
        .with_post_processor(Some(level))
        .with_decoder(Some(level))
        .build()
        .map_err(|error| TokenizerError::Train(error.to_string()))
}

fn finish(mut tokenizer: ByteLevelBpe) -> Result<String, TokenizerError> {
    let text = |error: tokenizers::Error| TokenizerError::Train(error.to_string());
    tokenizer
        .add_special_tokens([AddedToken::from(END_OF_TEXT, true)])
        .map_err(text)?;
    tokenizer.to_string(true).map_err(text)
}

/// The character that byte-level tokenizers write for each byte: printable ones stand for themselves, the others for
/// U+0100 and up, in order (GPT-2, `bytes_to_unicode`).
fn byte_characters() -> [char; BYTES as usize] {
    let mut substitutes = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..) => char::from(byte),
        _ => substitutes.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bytes() -> Tokenizer {
        Tokenizer::from_json(byte_tokenizer_json().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn byte_characters_are_the_library_s() {
        let ours: BTreeSet<char> = byte_characters().into_iter().collect();
        let library: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        assert_eq!(ours, library);
        assert_eq!(byte_characters()[usize::from(b' ')], 'Ġ');
    }

    #[test]
    fn byte_tokenizer_is_the_bytes() {
        let tokenizer = bytes();
        assert!(tokenizer.alphabet == Alphabet::Bytes);
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.end_of_text()),
            (257, 256)
        );
        assert_eq!(tokenizer.end_of_text_name(), END_OF_TEXT);
        assert_eq!(tokenizer.encode("aé\n").unwrap(), [97, 0xc3, 0xa9, 10]);
        assert_eq!(
            tokenizer.decode(&[97, 256, 0xc3, 0xa9, 10, 0xff]).unwrap(),
            "aé\n\u{fffd}"
        );
    }

    #[test]
    fn special_tokens_in_text_stay_text() {
        for alphabet in [Alphabet::Bytes, Alphabet::Library] {
            let tokenizer = Tokenizer {
                alphabet,
                ..bytes()
            };
            let ids = tokenizer.encode("x<|endoftext|>y").unwrap();
            assert!(!ids.contains(&256));
            assert_eq!(tokenizer.decode(&ids).unwrap(), "x<|endoftext|>y");
        }
    }

    #[test]
    fn trained_tokenizer_is_the_same_each_time_and_in_any_order() {
        let texts: Vec<String> = (0..400)
            .map(|n| format!("the {n} cats and the {} dogs sat\n", n * 7))
            .collect();
        let once = train_bpe_json(300, texts.clone().into_iter()).unwrap();
        let again = train_bpe_json(300, texts.into_iter().rev()).unwrap();
        assert_eq!(once, again);
        let tokenizer = Tokenizer::from_json(once.as_bytes()).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.end_of_text()),
            (300, 299)
        );
        let ids = tokenizer.encode("the cats and the dogs").unwrap();
        assert!(
            ids.len() <= 7,
            "merges of frequent words were learned: {ids:?}"
        );
        // Bytes never seen in training still have their tokens.
        let strange = "\u{0}\u{7f}漢字🦀\r\n\t é";
        assert_eq!(
            tokenizer
                .decode(&tokenizer.encode(strange).unwrap())
                .unwrap(),
            strange
        );
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        assert!(matches!(
            Tokenizer::from_json(b"{}"),
            Err(TokenizerError::Invalid(_))
        ));
        let json = byte_tokenizer_json().unwrap().replace(END_OF_TEXT, "<pad>");
        assert!(matches!(
            Tokenizer::from_json(json.as_bytes()),
            Err(TokenizerError::NoEndOfText)
        ));
        let missing = Tokenizer::from_file(Path::new("no/such/tokenizer.json")).unwrap_err();
        assert!(missing.to_string().contains("no/such/tokenizer.json"));
    }

    proptest! {
        #[test]
        fn shortcut_and_library_agree(text in any::<String>()) {
            let tokenizer = bytes();
            let library = Tokenizer { alphabet: Alphabet::Library, ..tokenizer.clone() };
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), library.encode(&text).unwrap());
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
        }
    }
}
