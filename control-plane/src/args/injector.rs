//! Flags of sidecar injection. Flags that the controller of App Mesh has keep their names.

use std::path::PathBuf;

use clap::{Args, builder::NonEmptyStringValueParser};
use evermesh_injector::{
    InjectorSettings, bootstrap::HostPort, mount_path, networks, settings::ControlPlaneSettings,
};

use super::{
    ServeArgs,
    authority::authority,
    choice::{MalformedAnnotationArg, SidecarOrderArg, WithoutMemberArg},
    cluster::IpFamilyArg,
    envoy::EnvoyArgs,
    heading,
    sidecar_telemetry::SidecarTelemetryArgs,
    xds::{XdsArgs, XdsAuthentication},
};

#[derive(Debug, Args)]
#[command(next_help_heading = heading::INJECTION)]
#[allow(clippy::struct_excessive_bools)] // one switch per flag
pub struct InjectorArgs {
    /// Do not inject sidecars; /mutate-v1-pod answers 404
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_WITHOUT_INJECTION",
        hide_short_help = true
    )]
    pub without_injection: bool,

    /// Action for a pod that asks for a sidecar but that no virtual node or gateway selects
    #[arg(
        long,
        value_name = "ACTION",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_WITHOUT_MEMBER",
        hide_short_help = true
    )]
    pub injection_without_member: WithoutMemberArg,

    /// Action for a pod with an annotation that cannot be parsed
    #[arg(
        long,
        value_name = "ACTION",
        default_value = "refuse",
        conflicts_with = "config",
        env = "EVERMESH_INJECTION_MALFORMED_ANNOTATION",
        hide_short_help = true
    )]
    pub injection_malformed_annotation: MalformedAnnotationArg,

    /// Kind of container in which sidecars run
    #[arg(
        long,
        value_name = "ORDER",
        default_value = "native",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_ORDER",
        hide_short_help = true
    )]
    pub sidecar_order: SidecarOrderArg,

    /// Require a sidecar order in which the application waits for its proxy
    ///
    /// With this flag Evermesh does not start with --sidecar-order=container. `native` always waits.
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_WAIT_UNTIL_PROXY_READY",
        hide_short_help = true
    )]
    pub wait_until_proxy_ready: bool,

    #[command(flatten)]
    pub envoy: EnvoyArgs,

    /// Image of the init container that sets up interception
    ///
    /// The default is evermesh-proxy-init with the version of Evermesh as its tag.
    #[arg(
        long,
        value_name = "IMAGE",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with = "config",
        env = "EVERMESH_INIT_IMAGE",
        help_heading = heading::INJECTION,
        hide_short_help = true
    )]
    pub init_image: Option<String>,

    /// IP addresses and networks (CIDR) that are not intercepted, separated by commas
    ///
    /// The annotation `egressIgnoredIPs` of a pod overrides this flag for that pod.
    #[arg(
        long,
        value_name = "ADDRESSES",
        default_value = "169.254.169.254",
        value_parser = addresses,
        conflicts_with = "config",
        env = "EVERMESH_IGNORED_IPS",
        help_heading = heading::INJECTION,
        hide_short_help = true
    )]
    pub ignored_ips: Box<[String]>,

    /// Address of the xDS server as sidecars reach it
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "evermesh-xds.evermesh-system.svc:18000",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS",
        help_heading = heading::SIDECAR
    )]
    pub sidecar_xds: HostPort,

    /// File with the CA certificates (PEM) of the xDS server; sidecars then use TLS
    ///
    /// Evermesh writes the certificates of this local file into the bootstrap of each sidecar and reloads the file when
    /// it changes. Existing pods keep the certificates with which they were created.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_XDS_CA",
        help_heading = heading::SIDECAR,
        hide_short_help = true
    )]
    pub sidecar_xds_ca: Option<PathBuf>,

    /// Audience of the service account token with which sidecars authenticate
    ///
    /// The default is the value of --xds-token-audience. With an empty value sidecars send no token.
    #[arg(
        long,
        value_name = "AUDIENCE",
        conflicts_with = "config",
        env = "EVERMESH_SIDECAR_TOKEN_AUDIENCE",
        help_heading = heading::SIDECAR,
        hide_short_help = true
    )]
    pub sidecar_token_audience: Option<String>,

    /// Mount the socket of a secret discovery service (SDS), such as SPIRE, into pods
    ///
    /// The socket is on the Kubernetes node of the pod.
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_SDS",
        help_heading = heading::SIDECAR,
        hide_short_help = true
    )]
    pub enable_sds: bool,

    /// Path of the SDS socket
    #[arg(
        long,
        value_name = "PATH",
        value_parser = mount_path,
        default_value = "/run/spire/sockets/agent.sock",
        conflicts_with = "config",
        env = "EVERMESH_SDS_UDS_PATH",
        help_heading = heading::SIDECAR,
        hide_short_help = true
    )]
    pub sds_uds_path: String,

    /// Set fsGroup 1337 on pods without one, so that Envoy can read the token of an IAM role
    ///
    /// The fsGroup changes the group of the files in the pod's volumes.
    #[arg(
        long,
        conflicts_with = "config",
        env = "EVERMESH_ENABLE_IAM_FOR_SERVICE_ACCOUNTS",
        help_heading = heading::SIDECAR,
        hide_short_help = true
    )]
    pub enable_iam_for_service_accounts: bool,

    #[command(flatten)]
    pub telemetry: SidecarTelemetryArgs,
}

impl ServeArgs {
    /// The settings of the injector, or `None` if injection is off.
    ///
    /// # Errors
    /// The flags contradict each other so that no sidecar could work, or a file cannot be read.
    pub fn injection(&self) -> anyhow::Result<Option<InjectorSettings>> {
        let injector = &self.injector;
        if injector.without_injection {
            return Ok(None);
        }
        anyhow::ensure!(
            !injector.wait_until_proxy_ready || injector.sidecar_order == SidecarOrderArg::Native,
            "--wait-until-proxy-ready needs --sidecar-order=native: with `container` the application does not wait for its proxy"
        );
        if let Some(service) = &self.xds.xds_tls_service {
            let host = &injector.sidecar_xds.host;
            anyhow::ensure!(
                service.service_hosts().contains(host),
                "--sidecar-xds has the host `{host}`, but the certificate for --xds-tls-service {service} is only valid for {}; every injected sidecar would reject it",
                service.service_hosts().join(" and ")
            );
        }
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
            envoy: self.envoy.settings(family != IpFamilyArg::Ipv4)?,
            ignored_ips: self.ignored_ips.to_vec(),
            has_ipv6: family != IpFamilyArg::Ipv4,
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

    /// The audience of the token that sidecars send, or `None` if they send none. Fails if the xDS server would reject
    /// every injected sidecar.
    fn token_audience(&self, xds: &XdsArgs) -> anyhow::Result<Option<String>> {
        use XdsAuthentication::{Kubernetes, KubernetesPermissive, Token};

        let required = &xds.xds_token_audience;
        let audience = self.sidecar_token_audience.as_ref().unwrap_or(required);
        let method = xds.xds_authentication;
        anyhow::ensure!(
            xds.xds_client_ca.is_none(),
            "--xds-client-ca would reject every injected sidecar, because sidecars have no client certificate; remove it or set --without-injection"
        );
        anyhow::ensure!(
            method != Some(Token),
            "--xds-authentication=token would reject every injected sidecar, because sidecars have no token from --xds-token-file; use `kubernetes` or set --without-injection"
        );
        anyhow::ensure!(
            method != Some(Kubernetes) || !audience.is_empty(),
            "--sidecar-token-audience must not be empty with --xds-authentication=kubernetes, which rejects every sidecar without a token"
        );
        anyhow::ensure!(
            !matches!(method, Some(Kubernetes | KubernetesPermissive))
                || audience.is_empty()
                || audience == required,
            "--sidecar-token-audience is `{audience}`, but the xDS server only accepts --xds-token-audience, which is `{required}`; give both the same value"
        );
        Ok(Some(audience.clone()).filter(|it| !it.is_empty()))
    }
}

/// Parses IP addresses and networks, separated by commas; the list is empty if the text is.
fn addresses(text: &str) -> Result<Box<[String]>, String> {
    networks(text).map(Vec::into_boxed_slice)
}

/// Parses an absolute path in a pod.
pub(super) fn absolute(text: &str) -> Result<String, String> {
    let is_absolute = text.starts_with('/').then(|| text.to_owned());
    is_absolute.ok_or_else(|| "use an absolute path".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use evermesh_injector::bootstrap::StatsD;

    use super::*;
    use crate::args::{CommandLine, EvermeshCommand};

    /// Parses `evermesh serve --kubernetes` with these flags into settings of the injector.
    fn injection(more: &[&str]) -> Result<Option<InjectorSettings>, String> {
        let line = ["evermesh", "serve", "--kubernetes"].iter().chain(more);
        let cli = CommandLine::try_parse_from(line).map_err(|error| error.to_string())?;
        let EvermeshCommand::Serve(serve) = cli.command else {
            panic!("not serve")
        };
        serve.injection().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn values_that_would_break_every_pod_are_rejected_at_the_start() {
        for bad in [
            "--sidecar-image-repository=",
            "--sidecar-image-tag=",
            "--sidecar-cpu-requests=lots",
            "--sidecar-memory-requests=32MB",
            "--sidecar-cpu-limits=-1",
            "--sidecar-cpu-limits=9m",
            "--sidecar-memory-limits=32M",
            "--sidecar-memory-limits=1 Gi",
            "--sidecar-log-level=verbose",
            "--sidecar-concurrency=0",
            "--prestop-delay=70000",
            "--envoy-admin-access-port=0",
            "--init-image=",
            "--ignored-ips=foo",
            "--ignored-ips=10.0.0.0/33",
            "--sds-uds-path=agent.sock",
            "--sds-uds-path=/run/../agent.sock",
            "--sds-uds-path=/var/run/secrets/evermesh.dev",
            "--jaeger-address=jaeger:9411",
            "--jaeger-address=ref:status.hostIP",
            "--jaeger-port=0",
            "--datadog-address=",
            "--datadog-address=ref:status.phase",
            "--opentelemetry-address=http://collector",
            "--opentelemetry-port=0",
            "--xray-daemon-port=0",
            "--xray-log-level=loud",
            "--xray-image=",
            "--statsd-address=some.name",
            "--statsd-address=ref:status",
            "--statsd-address=ref:metadata.labels['a b']",
            "--datadog-address=ref:metadata.annotations['a/b/c']",
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
            "--opentelemetry-address=ref:status.hostIP",
            "--statsd-address=::1",
            "--statsd-address=ref:metadata.annotations['statsd']",
            "--statsd-address=ref:metadata.labels['example.com/Stats.d_1']",
            "--xray-config-roleArn=",
        ] {
            let settings = injection(&[good]);
            assert!(settings.is_ok_and(|it| it.is_some()), "{good}");
        }
    }

    #[test]
    fn flags_under_which_xds_rejects_every_sidecar_are_refused() {
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
            (
                &[KUBERNETES, OTHER],
                "--xds-token-audience, which is `evermesh`",
            ),
            (
                &[PERMISSIVE, OTHER],
                "--xds-token-audience, which is `evermesh`",
            ),
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
    fn own_certificate_is_valid_for_the_address_of_sidecars() {
        const SERVICE: &str = "--xds-tls-service=mesh/evermesh-xds";
        const WEBHOOK: &str = "--webhook-address=127.0.0.1:9443";
        let error = injection(&[SERVICE, WEBHOOK]).unwrap_err();
        let names = "evermesh-xds.mesh.svc and evermesh-xds.mesh.svc.cluster.local";
        assert!(error.contains(names), "{error}");
        for host in names.split(" and ") {
            let xds = format!("--sidecar-xds={host}:18000");
            assert!(injection(&[SERVICE, WEBHOOK, &xds]).is_ok(), "{host}");
        }
        let without = [SERVICE, WEBHOOK, "--without-injection"];
        assert_eq!(injection(&without), Ok(None));
        for other in [
            &["--webhook-certificates=folder"][..],
            &["--xds-tls-cert=cert", "--xds-tls-key=key"],
            &["--sidecar-xds-ca=ca"],
        ] {
            let error = injection(&[&[SERVICE, WEBHOOK], other].concat()).unwrap_err();
            assert!(error.contains("--xds-tls-service"), "{error}");
        }
        let error = injection(&[SERVICE]).unwrap_err();
        assert!(error.contains("--webhook-address"), "{error}");
    }

    #[test]
    fn flags_become_settings_and_defaults_match_the_injector() {
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
        let dual = injection(&["--ip-family=dual"]).unwrap().unwrap();
        assert!(dual.envoy.admin_ipv6 && dual.has_ipv6);
        assert_eq!(given.ignored_ips, ["10.0.0.1", "fd00::/8"]);
        let address = HostPort {
            host: "ref:status.hostIP".to_owned(),
            port: 8125,
        };
        assert_eq!(given.statsd, Some(StatsD::Udp(address)));
    }
}
