//! The grammar of command lines as Python's `optparse` reads them: unique prefixes, clusters, values that look like options.
//!
//! Owns how words become (option, value) pairs. Refuses to know what an option does; the table of options is the caller's.

/// One option of a table.
#[derive(Clone, Copy, Debug)]
pub struct Spec<K> {
    /// What the caller calls it.
    pub key: K,
    /// The single letter, if there is one.
    pub short: Option<char>,
    /// The long name with its two dashes.
    pub long: &'static str,
    /// What the value is called in the help text; none for a switch.
    pub value: Option<&'static str>,
    /// Whether unique prefixes of the long name are accepted. Only names that the original has may have this: a new name that
    /// took part would make somebody's documented abbreviation ambiguous.
    pub abbreviates: bool,
    /// What it does, for the help text.
    pub help: &'static str,
}

/// One thing found on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<K> {
    /// A switch.
    Switch(K),
    /// An option with its value.
    Value(K, String),
    /// A word that belongs to no option.
    Positional(String),
}

/// Reads the items one after the other, so that a caller may stop at the first it acts upon (`--help`).
#[derive(Debug)]
pub struct Items<'a, K> {
    table: &'a [Spec<K>],
    words: std::slice::Iter<'a, String>,
    cluster: Option<std::str::Chars<'a>>,
    only_positionals: bool,
}

impl<'a, K: Copy> Items<'a, K> {
    /// Starts reading `words` by `table`.
    #[must_use]
    pub fn new(table: &'a [Spec<K>], words: &'a [String]) -> Self {
        Self {
            table,
            words: words.iter(),
            cluster: None,
            only_positionals: false,
        }
    }

    fn long(&mut self, word: &'a str) -> Result<Item<K>, String> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let spec = find_long(self.table, name)?;
        match (spec.value, attached) {
            (None, None) => Ok(Item::Switch(spec.key)),
            (None, Some(_)) => Err(format!("{} option does not take a value", spec.long)),
            (Some(_), Some(value)) => Ok(Item::Value(spec.key, value.to_owned())),
            (Some(_), None) => self.next_word(spec.key, spec.long),
        }
    }

    fn short(&mut self, letter: char) -> Result<Item<K>, String> {
        let Some(spec) = self.table.iter().find(|spec| spec.short == Some(letter)) else {
            return Err(format!("no such option: -{letter}"));
        };
        if spec.value.is_none() {
            return Ok(Item::Switch(spec.key));
        }
        match self.cluster.take().map(|rest| rest.as_str()) {
            Some(rest) if !rest.is_empty() => Ok(Item::Value(spec.key, rest.to_owned())),
            _ => self.next_word(spec.key, &format!("-{letter}")),
        }
    }

    fn next_word(&mut self, key: K, name: &str) -> Result<Item<K>, String> {
        match self.words.next() {
            Some(value) => Ok(Item::Value(key, value.clone())),
            None => Err(format!("{name} option requires 1 argument")),
        }
    }
}

impl<K: Copy> Iterator for Items<'_, K> {
    type Item = Result<Item<K>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(letter) = self.cluster.as_mut().and_then(Iterator::next) {
            return Some(self.short(letter));
        }
        self.cluster = None;
        let mut word = self.words.next()?;
        if !self.only_positionals && word == "--" {
            self.only_positionals = true;
            word = self.words.next()?;
        }
        if self.only_positionals || word == "-" || !word.starts_with('-') {
            return Some(Ok(Item::Positional(word.clone())));
        }
        if word.starts_with("--") {
            return Some(self.long(word));
        }
        let mut letters = word.chars();
        letters.next();
        self.cluster = Some(letters);
        self.next()
    }
}

fn find_long<'t, K>(table: &'t [Spec<K>], name: &str) -> Result<&'t Spec<K>, String> {
    if let Some(spec) = table.iter().find(|spec| spec.long == name) {
        return Ok(spec);
    }
    let mut candidates: Vec<&Spec<K>> = table
        .iter()
        .filter(|spec| spec.abbreviates && spec.long.starts_with(name))
        .collect();
    match candidates.len() {
        0 => Err(format!("no such option: {name}")),
        1 => Ok(candidates.remove(0)),
        _ => {
            candidates.sort_by_key(|spec| spec.long);
            let names: Vec<&str> = candidates.iter().map(|spec| spec.long).collect();
            Err(format!("ambiguous option: {name} ({}?)", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &[Spec<char>] = &[
        spec('v', Some('v'), "--verbose", None, true),
        spec('q', Some('q'), "--quiet", None, true),
        spec('a', Some('a'), "--vaultserver", Some("x"), true),
        spec('l', None, "--vaultalias", Some("x"), true),
        spec('s', None, "--scopes", Some("x"), true),
        spec('f', None, "--scope-file", Some("x"), false),
    ];

    const fn spec(
        key: char,
        short: Option<char>,
        long: &'static str,
        value: Option<&'static str>,
        abbreviates: bool,
    ) -> Spec<char> {
        Spec {
            key,
            short,
            long,
            value,
            abbreviates,
            help: "",
        }
    }

    fn read(words: &[&str]) -> Result<Vec<Item<char>>, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Items::new(TABLE, &words).collect()
    }

    fn value(key: char, text: &str) -> Item<char> {
        Item::Value(key, text.to_owned())
    }

    #[test]
    fn values_and_clusters() {
        let host = vec![value('a', "host")];
        for words in [
            &["-a", "host"][..],
            &["-ahost"],
            &["--vaultserver=host"],
            &["--vaultserver", "host"],
            &["--vaults", "host"],
        ] {
            assert_eq!(read(words).unwrap(), host, "{words:?}");
        }
        assert_eq!(
            read(&["-vqa", "host"]).unwrap(),
            [Item::Switch('v'), Item::Switch('q'), value('a', "host")]
        );
        assert_eq!(
            read(&["-vahost"]).unwrap(),
            [Item::Switch('v'), value('a', "host")]
        );
        assert_eq!(read(&["-a", "-v"]).unwrap(), [value('a', "-v")]);
        assert_eq!(read(&["--scopes", "--"]).unwrap(), [value('s', "--")]);
        assert_eq!(read(&["--scopes="]).unwrap(), [value('s', "")]);
        assert_eq!(read(&["--scopes=a=b"]).unwrap(), [value('s', "a=b")]);
    }

    #[test]
    fn new_names_do_not_take_part_in_prefixes() {
        assert_eq!(read(&["--scope", "x"]).unwrap(), [value('s', "x")]);
        assert_eq!(read(&["--scope-file", "x"]).unwrap(), [value('f', "x")]);
        assert_eq!(
            read(&["--scope-f", "x"]).unwrap_err(),
            "no such option: --scope-f"
        );
    }

    #[test]
    fn refusals() {
        assert_eq!(
            read(&["--vault", "x"]).unwrap_err(),
            "ambiguous option: --vault (--vaultalias, --vaultserver?)"
        );
        assert_eq!(read(&["--bogus"]).unwrap_err(), "no such option: --bogus");
        assert_eq!(read(&["-x"]).unwrap_err(), "no such option: -x");
        assert_eq!(read(&["-a"]).unwrap_err(), "-a option requires 1 argument");
        assert_eq!(
            read(&["--scop"]).unwrap_err(),
            "--scopes option requires 1 argument"
        );
        assert_eq!(
            read(&["--quiet=1"]).unwrap_err(),
            "--quiet option does not take a value"
        );
    }

    #[test]
    fn positionals_mix_and_double_dash_ends() {
        let words = |text: &str| Item::Positional(text.to_owned());
        assert_eq!(
            read(&["x", "-v", "-", "--", "-q", "--"]).unwrap(),
            [
                words("x"),
                Item::Switch('v'),
                words("-"),
                words("-q"),
                words("--")
            ]
        );
    }

    proptest! {
        #[test]
        fn never_panics(words in prop::collection::vec("[-=a-zé]{0,8}", 0..6)) {
            let words: Vec<String> = words;
            let _: Vec<_> = Items::new(TABLE, &words).take(50).collect();
        }
    }
}
