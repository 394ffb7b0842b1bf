//! Escaping for XML and HTML.

use std::fmt::{self, Display, Formatter, Write};

/// Shows a value so that it is text to XML and HTML, in elements and in quoted attributes.
///
/// Characters XML 1.0 does not allow (section 2.2) become U+FFFD.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

struct Escaper<'a, 'b>(&'a mut Formatter<'b>);

impl Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.write_str("&amp;")?,
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '"' => self.0.write_str("&quot;")?,
                '\'' => self.0.write_str("&#39;")?,
                '\t' | '\n' => self.0.write_char(c)?,
                // HTML knows noncharacters and C1 controls as errors, too.
                c if c.is_control() || (c as u32) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c) => {
                    self.0.write_char('\u{fffd}')?;
                }
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            Escaped("<a b='c'>&\"\u{1b}\n\u{ffff}").to_string(),
            "&lt;a b=&#39;c&#39;&gt;&amp;&quot;\u{fffd}\n\u{fffd}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_well_formed_xml(text in "\\PC{0,20}|.{0,20}|[\\x00-\\x7f]{0,20}") {
            let xml = format!("<a b=\"{0}\">{0}</a>", Escaped(&text));
            let document = roxmltree::Document::parse(&xml).unwrap();
            let read = document.root_element().text().unwrap_or_default();
            if !text.chars().any(|c| c.is_control() || c >= '\u{fdd0}') {
                prop_assert_eq!(read, text);
            }
        }
    }
}
