"""Serves an emulated AWS account on a free loopback port until its standard input closes.

Started by `cargo xtask demo` and by the end-to-end tests. Prints one JSON line, {"endpoint": "http://127.0.0.1:PORT"},
once it answers. It ends with whoever started it, because that process holds the other end of its standard input.

It is moto, with these differences: the account has the 17 regions that are enabled by default and no machine images
(stock moto lists some 1,300 public ones a region, each with a snapshot of the account's own), its clock can be set
back so that old keys exist, and calls can be counted and refused:

  POST /_emulator/clock?days=-200              what is made from here on carries that date
  POST /_emulator/deny?call=s3:GetBucketPolicy answers 403 AccessDenied to that call; with `action=allow`, stops doing so
  POST /_emulator/calls?reset=true             {"s3:GetBucketPolicy": 12, ...} since the last reset
"""

import datetime
import io
import json
import os
import pathlib
import re
import sys
import threading
from urllib.parse import parse_qs, unquote

HERE = pathlib.Path(__file__).resolve().parent
# Both are read by moto while it is imported.
os.environ["MOTO_AMIS_PATH"] = str(HERE / "amis.json")
os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")

import moto.core.utils  # noqa: E402

clock_offset = datetime.timedelta()


def utcnow():
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + clock_offset


# Before any service module is imported: they take the function by name.
moto.core.utils.utcnow = utcnow

from moto.core.responses import ActionResult  # noqa: E402
from moto.ec2.models.availability_zones_and_regions import Region  # noqa: E402
from moto.ec2.responses.availability_zones_and_regions import AvailabilityZonesAndRegions  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402

# Source: AWS, "Regions and Availability Zones", regions that need no opt-in, read 2026-11.
ENABLED = (
    "ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 "
    "eu-north-1 eu-west-1 eu-west-2 eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2"
).split()
NOT_OPTED_IN = "af-south-1 ap-east-1 eu-south-1 me-south-1".split()


def describe_regions(self):
    """moto lists every partition's regions as enabled and ignores both filters."""
    self.error_on_dryrun()
    names = self._get_param("RegionNames", []) or []
    everything = str(self._get_param("AllRegions", "false")).lower() == "true"
    wanted = None
    for condition in self._get_param("Filters", []) or []:
        if condition.get("Name") == "opt-in-status":
            wanted = set(condition.get("Values") or [])
    regions = [(name, "opt-in-not-required") for name in ENABLED]
    if everything or names:
        regions += [(name, "not-opted-in") for name in NOT_OPTED_IN]
    return ActionResult(
        {
            "Regions": [
                Region(name, f"ec2.{name}.amazonaws.com", status)
                for name, status in regions
                if (not names or name in names) and (wanted is None or status in wanted)
            ]
        }
    )


AvailabilityZonesAndRegions.describe_regions = describe_regions

SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]*/([^/]+)/aws4_request")
# S3 names an operation by its method and a key of the query string, which is the same word for most of them.
S3_KEYS = {
    "acl": "Acl",
    "accelerate": "AccelerateConfiguration",
    "cors": "Cors",
    "encryption": "Encryption",
    "lifecycle": "LifecycleConfiguration",
    "location": "Location",
    "logging": "Logging",
    "notification": "NotificationConfiguration",
    "object-lock": "ObjectLockConfiguration",
    "ownershipControls": "OwnershipControls",
    "policy": "Policy",
    "policyStatus": "PolicyStatus",
    "publicAccessBlock": "PublicAccessBlock",
    "replication": "Replication",
    "requestPayment": "RequestPayment",
    "tagging": "Tagging",
    "versioning": "Versioning",
    "website": "Website",
}
VERBS = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "POST": "Post", "HEAD": "Head"}


def operation(environ, body):
    """Names the call as IAM policies do, service:Operation, as far as the request shows it."""
    scope = SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    service = scope.group(1) if scope else "unsigned"
    if "form-urlencoded" in environ.get("CONTENT_TYPE", ""):
        action = parse_qs(body.decode("utf-8", "replace")).get("Action")
        if action:
            return f"{service}:{action[0]}"
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return f"{service}:{target.rsplit('.', 1)[-1]}"
    method, path = environ["REQUEST_METHOD"], unquote(environ.get("PATH_INFO", "/"))
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if path.startswith("/v20180820/configuration/publicAccessBlock"):
        return f"s3control:{VERBS.get(method, method)}PublicAccessBlock"
    if service == "account":
        # Its paths are the operations' names: POST /getAlternateContact.
        return f"account:{path[1:2].upper()}{path[2:]}"
    if service == "s3":
        bucket, _, key = path.strip("/").partition("/")
        if not bucket:
            return "s3:ListBuckets" if method == "GET" else f"s3:{method}"
        noun = next((name for word, name in S3_KEYS.items() if word in query), None)
        if noun:
            place = "Object" if key else ("" if noun in ("PublicAccessBlock", "ObjectLockConfiguration") else "Bucket")
            return f"s3:{VERBS.get(method, method)}{place}{noun}"
        if method in ("GET", "HEAD"):
            return f"s3:{'Get' if method == 'GET' else 'Head'}Object" if key else f"s3:{'ListObjects' if method == 'GET' else 'HeadBucket'}"
        return f"s3:{'Create' if method == 'PUT' and not key else VERBS.get(method, method)}{'Object' if key else 'Bucket'}"
    return f"{service}:{method} {path}"


def refusal(call, environ):
    """The 403 of the protocol that the call came in: JSON, query or REST-XML."""
    service = call.split(":")[0]
    text = f"User: arn:aws:iam::123456789012:user/auditor is not authorized to perform: {call}"
    if environ.get("HTTP_X_AMZ_TARGET") or "json" in environ.get("CONTENT_TYPE", ""):
        return "application/x-amz-json-1.1", json.dumps({"__type": "AccessDeniedException", "message": text})
    if service == "ec2":
        body = f"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{text}</Message></Error></Errors><RequestID>0</RequestID></Response>"
    elif service == "s3":
        body = f"<Error><Code>AccessDenied</Code><Message>{text}</Message><RequestId>0</RequestId></Error>"
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{text}</Message></Error><RequestId>0</RequestId></ErrorResponse>"
    return "text/xml", body


class Account:
    """The WSGI application: counts, refuses where told to, and hands the rest to moto."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()
        self.calls = {}
        self.denied = set()

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if body:
            environ["wsgi.input"] = io.BytesIO(body)
        if environ.get("PATH_INFO", "").startswith("/_emulator/"):
            return self.control(environ, start_response)
        call = operation(environ, body)
        with self.lock:
            self.calls[call] = self.calls.get(call, 0) + 1
            denied = call in self.denied
        if denied:
            kind, text = refusal(call, environ)
            return respond(start_response, "403 Forbidden", kind, text.encode())
        return self.moto(environ, start_response)

    def control(self, environ, start_response):
        global clock_offset
        query = {key: values[0] for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        answer = {}
        with self.lock:
            match environ["PATH_INFO"].removeprefix("/_emulator/"):
                case "clock":
                    clock_offset = datetime.timedelta(days=float(query["days"]))
                case "deny":
                    change = self.denied.discard if query.get("action") == "allow" else self.denied.add
                    change(query["call"])
                case "calls":
                    answer = dict(sorted(self.calls.items()))
                    if query.get("reset"):
                        self.calls = {}
                case other:
                    return respond(start_response, "404 Not Found", "text/plain", other.encode())
        return respond(start_response, "200 OK", "application/json", json.dumps(answer).encode())


def respond(start_response, status, kind, body):
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # the default, 1.0, cannot mark where a body of unknown length ends
    disable_nagle_algorithm = True

    def log_request(self, *_args, **_kwargs):
        pass


def main():
    server = make_server("127.0.0.1", 0, Account(), threaded=True, request_handler=Handler)
    os.environ["MOTO_PORT"] = str(server.server_port)

    def end_with_the_starter():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_the_starter, daemon=True).start()
    print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
