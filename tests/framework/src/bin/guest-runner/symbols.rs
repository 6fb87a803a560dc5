// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names for addresses in a module that is about to go: kmemleak looks after the module has been
//! unloaded, and then the kernel cannot name them any more.

use std::fs;

/// How far behind a symbol an address may be to belong to it.
const FAR: u64 = 0x1_0000;

/// A module's symbols, by address.
pub(crate) struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Those of a loaded module; none if the kernel does not show them.
    pub(crate) fn of(module: &str) -> Self {
        Self::parse(
            &fs::read_to_string("/proc/kallsyms").unwrap_or_default(),
            module,
        )
    }

    fn parse(kallsyms: &str, module: &str) -> Self {
        let tag = format!("[{module}]");
        let mut symbols: Vec<_> = kallsyms
            .lines()
            .filter(|line| line.ends_with(&tag))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                Some((address, words.nth(1)?.to_owned()))
            })
            .collect();
        symbols.sort();
        Self(symbols)
    }

    /// The text with a name behind each address of the module that stands alone on a line.
    pub(crate) fn annotate(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.lines() {
            out += line;
            if let Some(name) = line
                .trim()
                .strip_prefix("0x")
                .and_then(|hex| self.name(hex))
            {
                out += &format!(" {name}");
            }
            out.push('\n');
        }
        out
    }

    fn name(&self, hex: &str) -> Option<String> {
        let address = u64::from_str_radix(hex, 16).ok()?;
        let next = self.0.partition_point(|(at, _)| *at <= address);
        let (at, name) = self.0.get(next.checked_sub(1)?)?;
        let offset = address - at;
        (offset < FAR).then(|| format!("{name}+{offset:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_module_get_names() {
        let kallsyms = "ffffffffa0046000 t open_it\t[dmaplane]\n\
                        ffffffffa0046d00 t grow\t[dmaplane]\n\
                        ffffffffa0047000 t other\t[rdma_rxe]\n";
        let symbols = Symbols::parse(kallsyms, "dmaplane");
        let text =
            "  backtrace:\n    kmalloc+0x1/0x2\n    0xffffffffa0046d73\n    0xffffffff81000000\n";
        let want = "  backtrace:\n    kmalloc+0x1/0x2\n    0xffffffffa0046d73 grow+0x73\n    \
                    0xffffffff81000000\n";
        assert_eq!(symbols.annotate(text), want);
    }
}
