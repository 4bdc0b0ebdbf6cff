//! Pieces of pages: the frame, tables, text to copy. Whatever is text is escaped here. Pure.

use super::svg::{count, escape};
use super::verdict::Judgement;

const STYLE: &str = include_str!("page.css");
/// Copies the text beside a button; without it the text can still be selected.
const COPY: &str = "document.querySelectorAll('.copy button').forEach(b=>b.onclick=()=>navigator.clipboard\
                    .writeText(b.previousElementSibling.textContent).then(()=>b.textContent='copied'))";

/// A page of its own: nothing is loaded from elsewhere, which the policy also forbids.
pub(super) fn page(title: &str, content: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{content}\
         </main>\n<script>{COPY}</script>\n</body>\n</html>\n"
    )
}

/// The verdict, in words and in colour.
pub(super) fn banner(judgement: Judgement, sentence: &str) -> String {
    let (class, word) = (judgement.class(), judgement.word());
    format!(
        "<div class=\"banner {class}\"><strong>{word}</strong><p>{}</p></div>\n",
        escape(sentence)
    )
}

/// Text to copy, under a name.
pub(super) fn copy(name: &str, words: &str) -> String {
    format!(
        "<div class=\"copy\"><b>{}</b><pre>{}</pre><button type=\"button\">copy</button></div>\n",
        escape(name),
        escape(words)
    )
}

/// A paragraph in small print.
pub(super) fn note(words: &str) -> String {
    format!("<p class=\"soft\">{}</p>\n", escape(words))
}

/// A list; nothing if it is empty.
pub(super) fn list(items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items
        .iter()
        .map(|item| format!("<li>{}</li>", escape(item)))
        .collect();
    format!("<ul>{items}</ul>\n")
}

/// A cell of a table.
pub(super) struct Cell {
    class: &'static str,
    html: String,
}

impl Cell {
    /// Words.
    pub(super) fn text(words: &str) -> Cell {
        Cell {
            class: "",
            html: escape(words),
        }
    }

    /// Words that stay on one line.
    pub(super) fn short(words: &str) -> Cell {
        Cell {
            class: "short",
            html: escape(words),
        }
    }

    /// Words as a client or the store wrote them.
    pub(super) fn code(words: &str) -> Cell {
        Cell {
            class: "code",
            html: escape(words),
        }
    }

    /// A count.
    pub(super) fn count(value: u64) -> Cell {
        Cell {
            class: "number",
            html: count(value),
        }
    }

    /// A number with its unit.
    pub(super) fn number(words: &str) -> Cell {
        Cell {
            class: "number",
            html: escape(words),
        }
    }

    /// A word in the colour of what it says.
    pub(super) fn colour(class: &str, words: &str) -> Cell {
        Cell {
            class: "short",
            html: format!("<b class=\"{class}\">{}</b>", escape(words)),
        }
    }

    /// A link to a file of the same folder or below.
    pub(super) fn link(href: &str, words: &str) -> Cell {
        Cell {
            class: "",
            html: format!("<a href=\"{}\">{}</a>", escape(&relative(href)), escape(words)),
        }
    }
}

/// A path as a relative reference: the bytes that mean something else in one are written as numbers.
fn relative(path: &str) -> String {
    let mut out = String::from("./");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A table. Headings stand on the side of their column's numbers; short rows are filled up.
pub(super) fn table(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let first = rows.first();
    let heads: String = headings
        .iter()
        .enumerate()
        .map(|(i, words)| {
            let class = first.and_then(|row| row.get(i)).map_or("", |cell| cell.class);
            let class = if class == "number" {
                " class=\"number\""
            } else {
                ""
            };
            format!("<th{class}>{}</th>", escape(words))
        })
        .collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells: String = row
                .iter()
                .map(|Cell { class, html }| match *class {
                    "" => format!("<td>{html}</td>"),
                    class => format!("<td class=\"{class}\">{html}</td>"),
                })
                .chain((row.len()..headings.len()).map(|_| "<td></td>".to_string()))
                .collect();
            let total = row.first().is_some_and(|cell| cell.html == "all");
            format!(
                "<tr{}>{cells}</tr>\n",
                if total { " class=\"total\"" } else { "" }
            )
        })
        .collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_data_is_markup() {
        let evil = "<script>\"'&";
        let row = vec![
            Cell::text(evil),
            Cell::code(evil),
            Cell::colour("red", evil),
            Cell::link(evil, evil),
        ];
        let all = [
            page(evil, ""),
            banner(Judgement::Violated, evil),
            copy(evil, evil),
            note(evil),
            list(&[evil.to_string()]),
            table(&[evil], &[row]),
        ];
        for html in all {
            assert!(!html.contains("<script>\""), "{html}");
        }
    }

    #[test]
    fn links_stay_in_the_folder() {
        assert_eq!(relative("javascript:1"), "./javascript%3A1");
        assert_eq!(relative("run 1/index.html"), "./run%201/index.html");
    }

    #[test]
    fn tables_mark_numbers_and_totals() {
        let html = table(&["kind", "ok"], &[vec![Cell::text("all"), Cell::count(1234)]]);
        assert!(
            html.contains("<th>kind</th><th class=\"number\">ok</th>"),
            "{html}"
        );
        assert!(
            html.contains("<tr class=\"total\"><td>all</td><td class=\"number\">1,234</td></tr>"),
            "{html}"
        );
    }
}
