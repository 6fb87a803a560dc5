// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text to tokens and back, with the vocabulary in the GGUF file.

use anyhow::{Result, anyhow};
use candle_core::quantized::{gguf_file::Content, tokenizer::TokenizerFromGguf as _};
use tokenizers::pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence};

/// A tokenizer and the token that ends the assistant's turn.
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    end: Option<u32>,
}

const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

impl Tokenizer {
    /// Takes vocabulary and merges from a model's metadata.
    pub(crate) fn from_gguf(content: &Content) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_gguf(content)?;
        let pre = content
            .metadata
            .get("tokenizer.ggml.pre")
            .and_then(|pre| pre.to_string().ok());
        if pre.is_some_and(|pre| pre == "smollm") {
            // candle does not know this one: single digits, then bytes, without a leading space.
            let steps = vec![
                Digits::new(true).into(),
                ByteLevel::new(false, true, true).into(),
            ];
            inner.with_pre_tokenizer(Some(Sequence::new(steps)));
        }
        let end = content.metadata.get("tokenizer.ggml.eos_token_id");
        let end = end.map(|end| end.to_u32()).transpose()?;
        Ok(Self { inner, end })
    }

    /// The token that ends the assistant's turn.
    pub(crate) fn end(&self) -> Option<u32> {
        self.end
    }

    /// The tokens of a conversation of one question, up to where the assistant starts to speak.
    pub(crate) fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(chat(prompt), false)
            .map_err(|e| anyhow!(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens.
    pub(crate) fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(|e| anyhow!(e))
    }
}

/// The model's chat template (ChatML), with its default system message.
fn chat(prompt: &str) -> String {
    format!(
        "<|im_start|>system\n{SYSTEM}<|im_end|>\n\
         <|im_start|>user\n{prompt}<|im_end|>\n\
         <|im_start|>assistant\n"
    )
}

/// Prints text as tokens come, holding back characters that are not complete yet.
pub(crate) struct Printer<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    printed: usize,
}

impl<'a> Printer<'a> {
    /// Starts with nothing printed.
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            tokens: Vec::new(),
            printed: 0,
        }
    }

    /// Returns the text that the token completes.
    pub(crate) fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = text.get(self.printed..).unwrap_or_default().to_owned();
        self.printed = text.len();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_the_models_own() {
        // As rendered from the Jinja template in the model's metadata.
        assert_eq!(
            chat("Hi"),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
             Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }
}
