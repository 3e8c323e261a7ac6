//! The search for places to mutate, by syntax alone. A mutation that does not compile is dropped later.

mod syntax;

use std::{cmp::Reverse, ops::Range};

use proc_macro2::Span;
use syn::{
    Arm, Attribute, Block, Expr, ExprBinary, ExprClosure, ExprIf, ExprMatch, ExprMethodCall,
    ExprStruct, ExprUnary, ExprWhile, ImplItemConst, ImplItemFn, ItemConst, ItemEnum, ItemFn,
    ItemImpl, ItemMod, ItemStatic, ItemStruct, Macro, Member, Pat, ReturnType, Signature, Stmt,
    Token, TraitItemConst, TraitItemFn, Type, UnOp,
    parse::Parser,
    punctuated::Punctuated,
    spanned::Spanned,
    visit::{self, Visit},
};

use self::syntax::{
    contains_let, defaults, is_assignment, is_default, is_test, parse_matches, swapped,
};
use super::site::{MutationForm, MutationSite};

/// Methods whose last argument is a predicate.
const PREDICATES: [&str; 15] = [
    "all",
    "any",
    "filter",
    "find",
    "is_none_or",
    "is_some_and",
    "partition",
    "partition_point",
    "position",
    "retain",
    "rfind",
    "rposition",
    "skip_while",
    "take_if",
    "take_while",
];

/// Macros whose arguments are expressions.
const MACROS: [&str; 4] = ["format", "vec", "write", "writeln"];

/// The mutations of a source file, in the order of the text, and the names of its modules that are only for tests.
pub(crate) fn mutations(source: &str) -> syn::Result<(Vec<MutationSite>, Vec<String>)> {
    let mut finder = Finder {
        source,
        sites: Vec::new(),
        test_modules: Vec::new(),
    };
    finder.visit_file(&syn::parse_file(source)?);
    let Finder {
        mut sites,
        test_modules,
        ..
    } = finder;
    sites.sort_by_key(|site| (site.range.start, Reverse(site.range.end)));
    Ok((sites, test_modules))
}

struct Finder<'a> {
    source: &'a str,
    sites: Vec<MutationSite>,
    test_modules: Vec<String>,
}

impl Finder<'_> {
    fn text(&self, node: &impl Spanned) -> &str {
        &self.source[node.span().byte_range()]
    }

    fn add(&mut self, span: Span, kind: impl Into<String>, form: MutationForm) {
        let range = span.byte_range();
        self.add_range(span, range, kind, form);
    }

    /// A mutation that is reported at the span and applies to the range.
    fn add_range(
        &mut self,
        span: Span,
        range: Range<usize>,
        kind: impl Into<String>,
        form: MutationForm,
    ) {
        let start = span.start();
        let line = self.source.lines().nth(start.line - 1).unwrap_or_default();
        self.sites.push(MutationSite {
            place: (start.line, start.column + 1),
            source: line.trim().to_owned(),
            kind: kind.into(),
            range,
            form,
        });
    }

    fn replace(&mut self, node: &impl Spanned, kind: impl Into<String>, text: impl Into<String>) {
        self.add(node.span(), kind, MutationForm::Replace(text.into()));
    }

    /// An expression that is a bool, possibly with `let` patterns.
    fn condition(&mut self, expr: &Expr) {
        match expr {
            Expr::Let(pattern) => {
                self.add(
                    expr.span(),
                    "pattern never matches",
                    MutationForm::RefuseLet,
                );
                self.visit_expr(&pattern.expr);
            }
            Expr::Binary(binary) if contains_let(expr) => {
                self.condition(&binary.left);
                self.condition(&binary.right);
            }
            Expr::Paren(inner) if contains_let(expr) => self.condition(&inner.expr),
            _ => {
                self.truth(expr, "condition");
                self.visit_operand_of_condition(expr);
            }
        }
    }

    fn truth(&mut self, expr: &Expr, what: &str) {
        for value in ["true", "false"] {
            if self.text(expr) != value {
                self.replace(expr, format!("{what} to {value}"), value);
            }
        }
    }

    /// The negation of a whole condition is not mutated, because `true` and `false` cover it.
    fn visit_operand_of_condition(&mut self, expr: &Expr) {
        match expr {
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => self.visit_expr(&unary.expr),
            _ => self.visit_expr(expr),
        }
    }

    fn body(&mut self, signature: &Signature, block: &Block) {
        if block.stmts.is_empty() || signature.ident == "default" {
            return;
        }
        let body = self.source[block.span().byte_range()]
            .trim_matches(['{', '}'])
            .trim();
        let name = &signature.ident;
        let values: Vec<(String, &str)> = match &signature.output {
            ReturnType::Default => vec![(format!("body of {name} skipped"), "")],
            ReturnType::Type(_, output) => defaults(output)
                .iter()
                .filter(|value| **value != body && !is_default(body))
                .map(|value| (format!("body of {name} to {value}"), *value))
                .collect(),
        };
        let start = block.brace_token.span.open().byte_range().end;
        for (kind, value) in values {
            let form = MutationForm::Return(value.to_owned());
            self.add_range(signature.ident.span(), start..start, kind, form);
        }
    }

    fn statement(&mut self, statement: &Stmt) {
        let Stmt::Expr(expr, Some(_)) = statement else {
            return;
        };
        let is_effect = match expr {
            Expr::MethodCall(_) | Expr::Call(_) | Expr::Try(_) => true,
            Expr::Assign(assign) => !matches!(*assign.left, Expr::Path(_) | Expr::Tuple(_)),
            Expr::Binary(binary) => is_assignment(&binary.op),
            _ => false,
        };
        if is_effect {
            self.add(statement.span(), "statement skipped", MutationForm::Skip);
        }
    }

    /// The arms before a last arm that matches everything.
    fn arms(&mut self, arms: &[Arm]) {
        let Some((last, arms)) = arms.split_last() else {
            return;
        };
        let matches_all = match &last.pat {
            Pat::Wild(_) => true,
            Pat::Ident(name) => {
                name.subpat.is_none()
                    && name
                        .ident
                        .to_string()
                        .starts_with(|first: char| first.is_lowercase())
            }
            _ => false,
        };
        if !matches_all || last.guard.is_some() {
            return;
        }
        for arm in arms {
            if arm.guard.is_none() && self.text(&arm.body) != self.text(&last.body) {
                let end = arm.pat.span().byte_range().end;
                let form = MutationForm::RefuseArm;
                self.add_range(arm.pat.span(), end..end, "arm never matches", form);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test(&item.attrs) {
            if item.content.is_none() {
                self.test_modules.push(item.ident.to_string());
            }
            return;
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.sig.constness.is_none() && !is_test(&item.attrs) {
            self.body(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if item.sig.constness.is_none() && !is_test(&item.attrs) {
            self.body(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        for statement in &block.stmts {
            self.statement(statement);
        }
        visit::visit_block(self, block);
    }

    fn visit_expr_struct(&mut self, expr: &'ast ExprStruct) {
        for field in &expr.fields {
            let Member::Named(name) = &field.member else {
                continue;
            };
            if is_default(self.text(&field.expr)) {
                continue;
            }
            let kind = format!("field {name} to default");
            let text = "Default::default()".to_owned();
            if field.colon_token.is_some() {
                self.replace(&field.expr, kind, text);
            } else {
                let name = name.to_string();
                let form = MutationForm::ReplaceShorthand { name, text };
                self.add(field.span(), kind, form);
            }
        }
        for field in expr.fields.iter().filter(|it| it.colon_token.is_some()) {
            self.visit_expr(&field.expr);
        }
        if let Some(rest) = &expr.rest {
            self.visit_expr(rest);
        }
    }

    fn visit_expr_if(&mut self, expr: &'ast ExprIf) {
        self.condition(&expr.cond);
        self.visit_block(&expr.then_branch);
        if let Some((_, other)) = &expr.else_branch {
            self.visit_expr(other);
        }
    }

    fn visit_expr_while(&mut self, expr: &'ast ExprWhile) {
        self.condition(&expr.cond);
        self.visit_block(&expr.body);
    }

    fn visit_expr_match(&mut self, expr: &'ast ExprMatch) {
        self.arms(&expr.arms);
        visit::visit_expr_match(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.condition(guard);
        }
        let leaves = matches!(
            *arm.body,
            Expr::Return(_) | Expr::Continue(_) | Expr::Break(_)
        );
        if !leaves && !is_default(self.text(&arm.body)) {
            let text = "Default::default()".to_owned();
            let form = match *arm.body {
                Expr::Block(_) => MutationForm::ReplaceBlock(text),
                _ => MutationForm::Replace(text),
            };
            self.add(arm.body.span(), "arm to default", form);
        }
        self.visit_expr(&arm.body);
    }

    fn visit_expr_binary(&mut self, expr: &'ast ExprBinary) {
        if let Some((from, to)) = swapped(&expr.op) {
            let text = format!("{} {to} {}", self.text(&expr.left), self.text(&expr.right));
            self.replace(expr, format!("`{from}` to `{to}`"), text);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast ExprUnary) {
        if matches!(expr.op, UnOp::Not(_)) {
            let text = self.text(&expr.expr).to_owned();
            self.replace(expr, "`!` removed", text);
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_method_call(&mut self, expr: &'ast ExprMethodCall) {
        if PREDICATES.iter().any(|name| expr.method == name)
            && let Some(Expr::Closure(ExprClosure { body, .. })) = expr.args.last()
            && !matches!(**body, Expr::Block(_))
        {
            self.truth(body, &format!("predicate of {}", expr.method));
        }
        visit::visit_expr_method_call(self, expr);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        let Some(name) = item.path.get_ident() else {
            return;
        };
        if MACROS.iter().any(|known| name == known) {
            let arguments = Punctuated::<Expr, Token![,]>::parse_terminated;
            for argument in arguments.parse2(item.tokens.clone()).unwrap_or_default() {
                self.visit_expr(&argument);
            }
        } else if name == "matches"
            && let Ok((value, guard)) = parse_matches.parse2(item.tokens.clone())
        {
            self.visit_expr(&value);
            if let Some(guard) = guard {
                self.condition(&guard);
            }
        }
    }

    fn visit_item_const(&mut self, _: &'ast ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast TraitItemConst) {}
    fn visit_item_static(&mut self, _: &'ast ItemStatic) {}
    fn visit_item_struct(&mut self, _: &'ast ItemStruct) {}
    fn visit_item_enum(&mut self, _: &'ast ItemEnum) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}
    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

#[cfg(test)]
mod tests;
