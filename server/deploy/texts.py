"""Scripts and service files of a kit, as text."""

LOOPBACK = "127.0.0.1"
INSTALLED = "/opt/edgecmd"
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # What runs is what the machine's owner installed.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
}
TELL_EPSILON = """
# With true, the server is told how much epsilon the ledger here has counted over all runs, and shows it in
# `edgecmd deploy status`. No pair and no number of pairs is told.
tell-epsilon = false
"""
# A node's own port on loopback, and how often it looks there whether a message has arrived.
NODE_PORT, NODE_POLL_S = 9094, 0.2
NODE_PORT_VARIABLE = "EDGECMD_NODE_PORT"
# Flower refuses a node that comes back within about three minutes of being killed: a service tries for long.
RESTART_DELAY_S = 60

_HEAD = """\
#!/bin/sh
# {what}
set -eu
umask 077
KIT=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$KIT/state/flower"
export {environment}
export FLWR_HOME="$KIT/state/flower"
"""


def _head(what: str) -> str:
    return _HEAD.format(what=what, environment=" ".join("=".join(one) for one in ENVIRONMENT.items()))


def server_start(name: str, *, port: int) -> str:
    """Script that starts the SuperLink on loopback.

    Args:
        name: Of the federation.
        port: Of the SuperLink; nothing outside this machine reaches it but through the proxy.
    """
    return (
        _head(f"The server of the federation {name}: Flower's SuperLink on loopback.")
        + f"""\
export EDGECMD_SERVER_CONFIG="$KIT/server.toml"
exec flower-superlink --ssl-ca-certfile "$KIT/ca.crt" --ssl-certfile "$KIT/server.pem" \\
  --ssl-keyfile "$KIT/server.key" --enable-supernode-auth --disable-runtime-dependency-installation \\
  --host {LOOPBACK} --port {port} --database "$KIT/state/link.db"
"""
    )


def node_start(name: str, *, site: str, address: str, in_kit: bool = False) -> str:
    """Script that starts a site's SuperNode.

    Args:
        name: Of the federation.
        site: Of the site.
        address: Host and port of the server.
        in_kit: Whether the node config names files of the kit.
    """
    return (
        _head(f"The site {site} of the federation {name}: Flower's SuperNode, our app.")
        + f"export FLWR_SUPEREXEC_TASK_POLL_INTERVAL={NODE_POLL_S}\n"
        + ('cd "$KIT"\n' if in_kit else "")
        + f"""\
exec edgecmd-node --run "$KIT/run.toml" \\
  flower-supernode --root-certificates "$KIT/ca.crt" \\
  --auth-supernode-private-key "$KIT/node.key" --superlink {address} --node-config "$KIT/node.toml" \\
  --host {LOOPBACK} --port "${{{NODE_PORT_VARIABLE}:-{NODE_PORT}}}"
"""
    )


def unit(what: str, *, writes: tuple[str, ...]) -> str:
    """A systemd unit for a kit in `INSTALLED`.

    Args:
        what: Shown by systemctl.
        writes: Folders that the service writes to, beside its own.
    """
    return f"""\
[Unit]
Description={what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=edgecmd
Environment=PATH={INSTALLED}/venv/bin:/usr/local/bin:/usr/bin:/bin
ExecStart={INSTALLED}/kit/start.sh
Restart=always
RestartSec={RESTART_DELAY_S}
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={" ".join(f'"{one}"' if " " in one else one for one in (f"{INSTALLED}/kit", *writes))}

[Install]
WantedBy=multi-user.target
"""


def compose(service: str, *, version: str, reads: tuple[str, ...], writes: tuple[str, ...]) -> str:
    """A Compose file that starts a kit in a container.

    Args:
        service: Its name.
        version: Of edgecmd.
        reads: Folders that are mounted to be read.
        writes: Folders that are mounted to be written; a ledger must outlive its container.
    """
    mounts = ["./:/kit", *(f"{one}:{one}:ro" for one in reads), *(f"{one}:{one}" for one in writes)]
    lines = "\n".join(f"      - {one}" for one in mounts)
    return f"""\
# docker build -t edgecmd:{version} <checkout of edgecmd {version}>, with the Dockerfile beside this file.
services:
  {service}:
    image: edgecmd:{version}
    command: ["/kit/start.sh"]
    network_mode: host            # the SuperLink listens on loopback, where the proxy finds it
    restart: always
    volumes:
{lines}
"""


DOCKERFILE = """\
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir /src && useradd --uid 10001 edgecmd
USER edgecmd
"""


def nginx(host: str, *, port: int, link_port: int) -> str:
    """A proxy that lets sites reach what they need and nothing else: whoever reaches the rest controls all.

    Args:
        host: Of the server.
        port: That sites connect to.
        link_port: Of the SuperLink.
    """
    return f"""\
# Sites reach /v1/fleet/ and /health. Whoever reaches the rest can register keys and start runs on every node.
server {{
  listen {port} ssl;
  server_name {host};
  ssl_certificate {INSTALLED}/kit/server.pem;
  ssl_certificate_key {INSTALLED}/kit/server.key;
  client_max_body_size 0;
  location ~ ^/(v1/fleet/|health$) {{
    # What is matched above has no dots left; the SuperLink gets the address as it was sent.
    if ($request_uri !~ "^/(v1/fleet/[A-Za-z0-9/_-]+|health)$") {{ return 403; }}
    proxy_pass https://{LOOPBACK}:{link_port};
    proxy_ssl_trusted_certificate {INSTALLED}/kit/ca.crt;
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
    proxy_http_version 1.1;
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_read_timeout 300s;
    proxy_send_timeout 300s;
  }}
  location / {{ return 403; }}
}}
"""
