//! What can be asked for in pods. The flags that App Mesh's controller had are called as they were there.

use std::path::PathBuf;

use clap::{Args, builder::NonEmptyStringValueParser};
use evermesh_injector::{
    InjectorSettings, bootstrap::HostPort, networks, settings::ControlPlaneSettings,
};

use super::{
    ServeArgs,
    authority::authority,
    choice::{MalformedAnnotation, SidecarOrder, WithoutMember},
    cluster::IpFamilyArg,
    envoy::EnvoyArgs,
    sidecar_telemetry::SidecarTelemetryArgs,
    xds::{XdsArgs, XdsAuthentication},
};

/// What is put into pods.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // a switch a flag
pub struct InjectorArgs {
    /// Leave pods alone: nothing is answered at /mutate-v1-pod
    #[arg(long, conflicts_with = "config", env = "EVERMESH_WITHOUT_INJECTION")]
    pub without_injection: bool,

    /// What becomes of a pod that wants a sidecar and that no virtual node or gateway selects
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_WITHOUT_MEMBER"
    )]
    pub injection_without_member: WithoutMember,

    /// What becomes of a pod with an annotation that cannot be read
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_MALFORMED_ANNOTATION"
    )]
    pub injection_malformed_annotation: MalformedAnnotation,

    /// Where sidecars stand in a pod
    #[arg(
        long,
        value_name = "ORDER",
        default_value = "native",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_ORDER"
    )]
    pub sidecar_order: SidecarOrder,

    /// Refuse an order of sidecars in which the application does not wait for its proxy; `native` always waits
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_WAIT_UNTIL_PROXY_READY"
    )]
    pub wait_until_proxy_ready: bool,

    /// Envoy's container
    #[command(flatten)]
    pub envoy: EnvoyArgs,

    /// The image that sets up interception
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with = "config",
        env = "EVERMESH_INIT_IMAGE"
    )]
    pub init_image: Option<String>,

    /// Addresses and networks that are not intercepted, unless a pod's `egressIgnoredIPs` says others
    #[arg(
        long,
        value_name = "ADDRESSES",
        default_value = "169.254.169.254",
        value_parser = addresses,
        conflicts_with = "config",
        env = "EVERMESH_IGNORED_IPS"
    )]
    pub ignored_ips: Box<[String]>,

    /// Where sidecars reach Evermesh's xDS
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "evermesh-xds.evermesh-system.svc:18000",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS"
    )]
    pub sidecar_xds: HostPort,

    /// A file, here, with the authorities of the certificate that xDS is served with, in PEM: sidecars connect by TLS.
    /// It is read once, and pods keep what they were created with
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS_CA"
    )]
    pub sidecar_xds_ca: Option<PathBuf>,

    /// The audience of the service account's token by which a sidecar shows who it is, that of --xds-token-audience
    /// without this; none is shown if empty
    #[arg(
        long,
        value_name = "AUDIENCE",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_TOKEN_AUDIENCE"
    )]
    pub sidecar_token_audience: Option<String>,

    /// Give pods the socket of a secret service (SDS), such as SPIRE's, on their host
    #[arg(long, conflicts_with = "config", env = "EVERMESH_ENABLE_SDS")]
    pub enable_sds: bool,

    /// The path of that socket
    #[arg(
        long,
        value_name = "PATH",
        value_parser = absolute,
        default_value = "/run/spire/sockets/agent.sock",
        conflicts_with = "config",
        env = "EVERMESH_SDS_UDS_PATH"
    )]
    pub sds_uds_path: String,

    /// Give pods the group 1337 unless they have one, so that Envoy can read the token of an AWS role; it changes the
    /// owner of volumes
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_IAM_FOR_SERVICE_ACCOUNTS"
    )]
    pub enable_iam_for_service_accounts: bool,

    /// Traces and statistics
    #[command(flatten)]
    pub telemetry: SidecarTelemetryArgs,
}

impl ServeArgs {
    /// What pods get; nothing if they are left alone.
    ///
    /// # Errors
    /// Every pod would get a sidecar that cannot work, or a file cannot be read.
    pub fn injection(&self) -> anyhow::Result<Option<InjectorSettings>> {
        let injector = &self.injector;
        if injector.without_injection {
            return Ok(None);
        }
        anyhow::ensure!(
            !injector.wait_until_proxy_ready || injector.sidecar_order == SidecarOrder::Native,
            "--wait-until-proxy-ready: with --sidecar-order=container no application can wait for plain Envoy; use native"
        );
        let region = self.kubernetes.aws_region.clone();
        Ok(Some(InjectorSettings {
            region: region.unwrap_or_default(),
            cloud_map_gate: self.cloud_map.cloud_map_registration,
            ..injector.settings(&self.xds, self.webhook.ip_family)?
        }))
    }
}

impl InjectorArgs {
    fn settings(&self, xds: &XdsArgs, family: IpFamilyArg) -> anyhow::Result<InjectorSettings> {
        let authority = self.sidecar_xds_ca.as_deref().map(authority);
        let init_image = self.init_image.clone();
        let init_image = init_image
            .unwrap_or_else(|| format!("evermesh-proxy-init:{}", env!("CARGO_PKG_VERSION")));
        Ok(InjectorSettings {
            without_member: self.injection_without_member.into(),
            malformed: self.injection_malformed_annotation.into(),
            order: self.sidecar_order.into(),
            envoy: self.envoy.settings(family == IpFamilyArg::Ipv6),
            ignored_ips: self.ignored_ips.to_vec(),
            control_plane: ControlPlaneSettings {
                xds: self.sidecar_xds.clone(),
                authority: authority.transpose()?,
                token_audience: self.token_audience(xds)?,
            },
            sds_socket: self.enable_sds.then(|| self.sds_uds_path.clone()),
            tracing: self.telemetry.tracing(),
            xray: self.telemetry.daemon(),
            stats_tags: self.telemetry.enable_stats_tags,
            statsd: self.telemetry.statsd(),
            fs_group: self.enable_iam_for_service_accounts,
            ..InjectorSettings::new(self.sidecar_xds.clone(), init_image)
        })
    }

    /// The audience of the token that sidecars show, if they show one and xDS lets them in by it.
    fn token_audience(&self, xds: &XdsArgs) -> anyhow::Result<Option<String>> {
        use XdsAuthentication::{Kubernetes, KubernetesPermissive, Token};

        let wanted = &xds.xds_token_audience;
        let audience = self.sidecar_token_audience.as_ref().unwrap_or(wanted);
        let asked = xds.xds_authentication;
        anyhow::ensure!(
            xds.xds_client_ca.is_none(),
            "--xds-client-ca: injected sidecars have no certificate, so each would be refused; leave it out, or inject none (--without-injection)"
        );
        anyhow::ensure!(
            asked != Some(Token),
            "--xds-authentication=token: injected sidecars have none of the tokens in --xds-token-file, so each would be refused; use `kubernetes`, or inject none (--without-injection)"
        );
        anyhow::ensure!(
            asked != Some(Kubernetes) || !audience.is_empty(),
            "--sidecar-token-audience is empty, and with --xds-authentication=kubernetes each sidecar without a token would be refused"
        );
        anyhow::ensure!(
            !matches!(asked, Some(Kubernetes | KubernetesPermissive))
                || audience.is_empty()
                || audience == wanted,
            "--sidecar-token-audience is `{audience}` and --xds-token-audience is `{wanted}`, so each sidecar would be refused"
        );
        Ok(Some(audience.clone()).filter(|it| !it.is_empty()))
    }
}

/// Reads addresses and networks; none if the text is empty.
fn addresses(text: &str) -> Result<Box<[String]>, String> {
    networks(text).map(Vec::into_boxed_slice)
}

/// Reads a path in a pod.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    let is_absolute = text.starts_with('/').then(|| text.to_owned());
    is_absolute.ok_or_else(|| "an absolute path is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use evermesh_injector::bootstrap::StatsD;

    use super::*;
    use crate::args::{CommandLine, EvermeshCommand};

    /// What is made of these flags, or why nothing is.
    fn injection(more: &[&str]) -> Result<Option<InjectorSettings>, String> {
        let line = ["evermesh", "serve", "--kubernetes"].iter().chain(more);
        let cli = CommandLine::try_parse_from(line).map_err(|error| error.to_string())?;
        let EvermeshCommand::Serve(serve) = cli.command else {
            panic!("not serve")
        };
        serve.injection().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_would_fail_in_every_pod_fails_at_the_start() {
        for bad in [
            "--sidecar-image-repository=",
            "--sidecar-image-tag=",
            "--sidecar-cpu-requests=lots",
            "--sidecar-memory-requests=32MB",
            "--sidecar-cpu-limits=-1",
            "--sidecar-memory-limits=1 Gi",
            "--sidecar-log-level=verbose",
            "--sidecar-concurrency=0",
            "--prestop-delay=70000",
            "--envoy-admin-access-port=0",
            "--init-image=",
            "--ignored-ips=foo",
            "--ignored-ips=10.0.0.0/33",
            "--sds-uds-path=agent.sock",
            "--jaeger-address=jaeger:9411",
            "--jaeger-address=ref:status.hostIP",
            "--jaeger-port=0",
            "--datadog-address=",
            "--datadog-address=ref:status.phase",
            "--xray-daemon-port=0",
            "--xray-log-level=loud",
            "--xray-image=",
            "--statsd-address=some.name",
            "--statsd-address=ref:status",
            "--statsd-port=0",
            "--statsd-socket-path=statsd.sock",
            "--xds-token-audience=",
            "--aws-region=",
        ] {
            let flag = bad.split('=').next().unwrap();
            let error = injection(&[bad]).unwrap_err();
            assert!(error.contains(flag), "{bad}: {error}");
        }
        for good in [
            "--sidecar-cpu-limits=",
            "--sidecar-memory-limits=1.5Gi",
            "--sidecar-log-level=warn",
            "--ignored-ips=",
            "--jaeger-address=fd00::1",
            "--datadog-address=ref:spec.nodeName",
            "--statsd-address=::1",
            "--statsd-address=ref:metadata.annotations['statsd']",
            "--xray-config-roleArn=",
        ] {
            let settings = injection(&[good]);
            assert!(settings.is_ok_and(|it| it.is_some()), "{good}");
        }
    }

    #[test]
    fn sidecars_that_nobody_lets_in_are_not_made() {
        const CERTIFICATE: [&str; 4] = [
            "--xds-authentication=certificate",
            "--xds-client-ca=ca",
            "--xds-tls-cert=cert",
            "--xds-tls-key=key",
        ];
        const TOKEN: [&str; 2] = ["--xds-authentication=token", "--xds-token-file=tokens"];
        const KUBERNETES: &str = "--xds-authentication=kubernetes";
        const PERMISSIVE: &str = "--xds-authentication=kubernetes-permissive";
        const OTHER: &str = "--sidecar-token-audience=other";
        const EMPTY: &str = "--sidecar-token-audience=";
        for (flags, named) in [
            (&CERTIFICATE[..], "--xds-client-ca"),
            (&CERTIFICATE[1..], "--xds-client-ca"),
            (&TOKEN, "--xds-authentication=token"),
            (&[KUBERNETES, OTHER], "--xds-token-audience is `evermesh`"),
            (&[PERMISSIVE, OTHER], "--xds-token-audience is `evermesh`"),
            (&[KUBERNETES, EMPTY], KUBERNETES),
        ] {
            let error = injection(flags).unwrap_err();
            assert!(error.contains(named), "{flags:?}: {error}");
            let without = [flags, &["--without-injection"]].concat();
            assert_eq!(injection(&without), Ok(None), "{flags:?}");
        }
        let audience = |flags: &[&str]| {
            let settings = injection(flags).unwrap().unwrap();
            settings.control_plane.token_audience
        };
        let both = [KUBERNETES, "--xds-token-audience=other"];
        assert_eq!(audience(&both).as_deref(), Some("other"));
        assert_eq!(audience(&[&both[..], &[OTHER]].concat()), audience(&both));
        assert_eq!(audience(&[PERMISSIVE, EMPTY]), None);
        assert_eq!(audience(&[OTHER]).as_deref(), Some("other"));
    }

    #[test]
    fn pods_get_what_was_given_and_nothing_made_up() {
        let plain = injection(&[]).unwrap().unwrap();
        let init_image = plain.init_image.clone();
        let xds = plain.control_plane.xds.clone();
        assert_eq!(plain, InjectorSettings::new(xds, init_image));
        let given = [
            "--aws-region=eu-west-1",
            "--ip-family=ipv6",
            "--ignored-ips=10.0.0.1, fd00::/8",
            "--enable-statsd",
            "--statsd-address=ref:status.hostIP",
        ];
        let given = injection(&given).unwrap().unwrap();
        assert_eq!(given.region, "eu-west-1");
        assert!(given.envoy.admin_ipv6);
        assert_eq!(given.ignored_ips, ["10.0.0.1", "fd00::/8"]);
        let address = HostPort {
            host: "ref:status.hostIP".to_owned(),
            port: 8125,
        };
        assert_eq!(given.statsd, Some(StatsD::Udp(address)));
    }
}
