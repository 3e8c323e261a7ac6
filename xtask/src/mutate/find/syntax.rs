//! Pieces of syntax: what they are, and what takes their place.

use syn::{Attribute, BinOp, Expr, Pat, Token, Type, parse::ParseStream};

/// `VALUE, PATTERN if GUARD`.
pub(super) fn parse_matches(input: ParseStream<'_>) -> syn::Result<(Expr, Option<Expr>)> {
    let value = input.parse()?;
    input.parse::<Token![,]>()?;
    Pat::parse_multi_with_leading_vert(input)?;
    let guard = if input.parse::<Option<Token![if]>>()?.is_some() {
        Some(input.parse()?)
    } else {
        None
    };
    input.parse::<Option<Token![,]>>()?;
    Ok((value, guard))
}

/// True for `#[test]` and for `#[cfg(test)]`.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|it| it == "test"))
    })
}

pub(super) fn contains_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => contains_let(&binary.left) || contains_let(&binary.right),
        Expr::Paren(inner) => contains_let(&inner.expr),
        _ => false,
    }
}

pub(super) fn is_assignment(operator: &BinOp) -> bool {
    matches!(
        operator,
        BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::MulAssign(_)
            | BinOp::DivAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::BitAndAssign(_)
    )
}

/// Bounds move by one, and everything else becomes its opposite.
pub(super) fn swapped(operator: &BinOp) -> Option<(&'static str, &'static str)> {
    Some(match operator {
        BinOp::Eq(_) => ("==", "!="),
        BinOp::Ne(_) => ("!=", "=="),
        BinOp::Lt(_) => ("<", "<="),
        BinOp::Le(_) => ("<=", "<"),
        BinOp::Gt(_) => (">", ">="),
        BinOp::Ge(_) => (">=", ">"),
        BinOp::And(_) => ("&&", "||"),
        BinOp::Or(_) => ("||", "&&"),
        BinOp::Add(_) => ("+", "-"),
        BinOp::Sub(_) => ("-", "+"),
        BinOp::Mul(_) => ("*", "/"),
        BinOp::Div(_) => ("/", "*"),
        _ => return None,
    })
}

/// Values to return instead of what a body computes.
pub(super) fn defaults(output: &Type) -> &'static [&'static str] {
    let name = match output {
        Type::Path(path) => path.path.segments.last().map(|it| it.ident.to_string()),
        _ => None,
    };
    match name.as_deref() {
        Some("bool") => &["true", "false"],
        Some("Result") => &["Ok(Default::default())"],
        Some("Option") => &["None"],
        _ => &["Default::default()"],
    }
}

/// True if the text of an expression is a default already.
pub(super) fn is_default(text: &str) -> bool {
    let text = text.trim_matches(|it: char| it.is_whitespace() || "{}".contains(it));
    let tuple = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'));
    if let Some(items) = tuple {
        return items.split(", ").all(is_default);
    }
    [
        "&[]",
        "0",
        "",
        "false",
        "None",
        "Ok(())",
        "\"\"",
        "vec![]",
        "Default::default()",
    ]
    .contains(&text)
        || text.ends_with("::new()")
        || text.ends_with("::default()")
}
