use std::collections::BTreeSet;

use clap::{Arg, Command, CommandFactory};

use super::*;

/// Flags that `evermesh serve -h` lists. Add a flag only if most installations need it: the limit is 14.
const SERVE_SHORT_HELP: [&str; 14] = [
    "--help",
    "--version",
    "--config",
    "--kubernetes",
    "--watch-namespace",
    "--xds-address",
    "--xds-tls-cert",
    "--xds-tls-key",
    "--xds-authentication",
    "--webhook-address",
    "--sidecar-xds",
    "--admin-address",
    "--leader-election-namespace",
    "--log",
];

/// Headings of `evermesh serve --help`, in the order in which they appear.
const HEADINGS: [&str; 8] = [
    heading::SOURCE,
    heading::XDS,
    heading::IDENTITY,
    heading::ADMISSION,
    heading::INJECTION,
    heading::SIDECAR,
    heading::CLOUD_MAP,
    heading::OPERATIONS,
];

/// Longest short help of a flag or command, in characters.
const SHORT_HELP_LIMIT: usize = 110;

fn subcommand(name: &str) -> Command {
    let mut evermesh = CommandLine::command();
    evermesh.build();
    evermesh.find_subcommand(name).unwrap().clone()
}

/// The flags that Evermesh defines, without those that clap adds.
fn own_arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
}

/// The flags that a rendered help text lists. Flags begin at column 6 or before, the lines of their help after it.
fn listed_flags(help: &str) -> Vec<&str> {
    help.lines()
        .filter(|line| line.find('-') <= Some(6) && line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .collect()
}

#[test]
fn command_definition_is_valid() {
    CommandLine::command().debug_assert();
}

#[test]
fn every_flag_has_an_environment_variable() {
    for command in CommandLine::command().get_subcommands() {
        for argument in own_arguments(command) {
            let variable = argument.get_env().and_then(|name| name.to_str());
            assert!(
                variable.is_some_and(|name| name.starts_with("EVERMESH_")),
                "{} --{}",
                command.get_name(),
                argument.get_id()
            );
        }
    }
}

#[test]
fn short_help_of_serve_lists_the_most_needed_flags() {
    let help = subcommand("serve").render_help().to_string();
    assert_eq!(listed_flags(&help), SERVE_SHORT_HELP, "{help}");
    assert!(help.contains("see more with '--help'"), "{help}");
}

#[test]
fn long_help_of_serve_lists_every_flag() {
    let mut serve = subcommand("serve");
    let help = serve.render_long_help().to_string();
    let listed: BTreeSet<&str> = listed_flags(&help).into_iter().collect();
    for argument in serve.get_arguments() {
        let flag = format!("--{}", argument.get_long().unwrap());
        assert!(listed.contains(flag.as_str()), "{flag}");
    }
}

#[test]
fn every_flag_of_serve_has_one_of_the_eight_headings() {
    let serve = subcommand("serve");
    let mut found: Vec<&str> = Vec::new();
    for argument in own_arguments(&serve) {
        let heading = argument.get_help_heading();
        let heading = heading.unwrap_or_else(|| panic!("--{} has no heading", argument.get_id()));
        if !found.contains(&heading) {
            found.push(heading);
        }
    }
    assert_eq!(found, HEADINGS);
}

#[test]
fn every_flag_and_command_has_one_short_sentence_of_help() {
    let check = |name: &str, help: Option<String>| {
        let help = help.unwrap_or_else(|| panic!("{name} has no help"));
        assert!(help.len() <= SHORT_HELP_LIMIT, "{name}: {help}");
        assert!(help.starts_with(char::is_uppercase), "{name}: {help}");
        assert!(!help.ends_with('.'), "{name}: {help}");
        assert!(!help.contains('\n'), "{name}: {help}");
    };
    let evermesh = CommandLine::command();
    check("evermesh", evermesh.get_about().map(ToString::to_string));
    for command in evermesh.get_subcommands() {
        let name = command.get_name();
        check(name, command.get_about().map(ToString::to_string));
        for argument in own_arguments(command) {
            let flag = format!("{name} --{}", argument.get_id());
            check(&flag, argument.get_help().map(ToString::to_string));
        }
    }
}

#[test]
fn top_level_help_describes_each_command_and_shows_examples() {
    let help = CommandLine::command().render_help().to_string();
    for text in [
        "serve              Serve configuration to Envoy proxies from a folder or from a Kubernetes cluster\n",
        "lint               Check a folder of manifests and print its errors and warnings\n",
        "bootstrap          Print the Envoy bootstrap configuration for a virtual node or virtual gateway\n",
        "crds               Print the custom resource definitions as YAML, for `kubectl apply`\n",
        "remove-finalizers  Remove what keeps objects from being deleted after Evermesh was uninstalled\n",
        "evermesh serve --config examples/canary\n",
    ] {
        assert!(help.contains(text), "{text}\n{help}");
    }
}

#[test]
fn long_help_shows_details_default_variable_and_values() {
    let help = subcommand("serve").render_long_help().to_string();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "--prestop-delay <SECONDS> Time in seconds that Envoy keeps serving once its pod is being deleted \
         [env: EVERMESH_PRESTOP_DELAY=] [default: 20]",
        "On a loopback address the default is `none`. Possible values: \
         - none: No authentication: every client may use any node ID",
    ] {
        assert!(words.contains(text), "{text}\n{help}");
    }
}

#[test]
fn durations_are_parsed_with_their_unit() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("1m"), Ok(Duration::from_mins(1)));
    for bad in ["", "5", "s", "-1s", "1h", "1ms", "99999999999999999999s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn webhook_configurations_have_the_names_of_app_mesh_by_default() {
    let cli = CommandLine::parse_from(["evermesh", "serve", "--kubernetes"]);
    let EvermeshCommand::Serve(arguments) = cli.command else {
        panic!("not serve")
    };
    assert_eq!(
        arguments.webhook.webhook_mutating_configuration,
        "appmesh-controller-mutating-webhook-configuration"
    );
}

#[test]
fn namespaced_names_need_a_namespace_and_a_name() {
    let name = "a/b".parse::<NamespacedName>().unwrap();
    assert_eq!(name.to_string(), "a/b");
    for bad in ["", "a", "a/", "/b", "a/b/c"] {
        assert!(bad.parse::<NamespacedName>().is_err(), "{bad}");
    }
}

#[test]
fn flags_for_a_kubernetes_cluster_conflict_with_config() {
    let serve = ["evermesh", "serve", "--config", "x"];
    for flag in [
        "--webhook-address=127.0.0.1:1",
        "--leader-election-namespace=a",
        "--watch-namespace=a",
        "--secret-namespace=a",
        "--endpoint-slices",
        "--sidecar-log-level=info",
        "--enable-stats-tags",
        "--cloud-map-registration",
        "--xds-token-audience=a",
    ] {
        let error = CommandLine::try_parse_from(serve.iter().chain(&[flag])).unwrap_err();
        assert!(error.to_string().contains("--config"), "{error}");
    }
}

#[test]
fn each_authentication_method_requires_its_files() {
    let serve = |more: &[&str]| {
        let line = ["evermesh", "serve", "--config", "x"].iter().chain(more);
        CommandLine::try_parse_from(line)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for (incomplete, missing) in [
        (&["--xds-authentication=token"][..], "--xds-token-file"),
        (&["--xds-authentication=certificate"], "--xds-client-ca"),
        (&["--xds-tls-cert=c"], "--xds-tls-key"),
        (&["--xds-client-ca=c"], "--xds-tls-cert"),
    ] {
        let error = serve(incomplete).unwrap_err();
        assert!(error.contains(missing), "{error}");
    }
    serve(&["--xds-authentication=token", "--xds-token-file=t"]).unwrap();
}

#[test]
fn bootstrap_accepts_an_arn_as_node() {
    let arn = "arn:aws:appmesh:eu-west-1:111122223333:mesh/m/virtualNode/n";
    let cli = CommandLine::parse_from(["evermesh", "bootstrap", "--node", arn, "--xds", "h:1"]);
    let EvermeshCommand::Bootstrap(arguments) = cli.command else {
        panic!("not bootstrap")
    };
    assert_eq!(arguments.node.to_string(), "mesh/m/virtualNode/n");
}
