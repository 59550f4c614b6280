"""Every operation of a client that openapi-python-client has generated, by its operation id.

The generator makes one module of each operation. Bodies and answers pass through its own models,
so what the document says and what the control plane does are held against each other on each call.
"""

import importlib
import json
import pkgutil
import re
import typing


class Refused(Exception):
    """The control plane refused a call."""

    def __init__(self, status, reason, message):
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class Undocumented(Exception):
    """Something was sent or answered that the document does not name."""


class Surface:
    """The operations, and which of them have been called."""

    def __init__(self, package, document):
        self.client = importlib.import_module(package + ".client")
        self.types = importlib.import_module(package + ".types")
        api = importlib.import_module(package + ".api")
        self.modules = {}
        for _, name, folder in pkgutil.walk_packages(api.__path__, api.__name__ + "."):
            if not folder:
                self.modules[name.rsplit(".", 1)[1]] = importlib.import_module(name)
        self.ids = [
            operation["operationId"]
            for path in document["paths"].values()
            for operation in path.values()
        ]
        self.called = set()

    def module(self, operation):
        """The module of an operation: GetTree is get_tree, OAuth.Token o_auth_token."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", operation)
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words)
        words = re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", "_", words)
        return self.modules[words.lower()]

    def missing(self):
        """The operations that nobody has called."""
        return sorted(set(self.ids) - self.called)

    def anonymous(self, address):
        """A caller without credentials."""
        return Caller(self, self.client.Client(base_url=address, httpx_args=DIRECT))

    def with_token(self, address, token):
        """A caller with an API key or an access token."""
        client = self.client.AuthenticatedClient
        return Caller(self, client(base_url=address, token=token, httpx_args=DIRECT))


# The requests carry keys; whatever proxy the environment names has no business with them.
DIRECT = {"trust_env": False}


class Caller:
    """Somebody who calls."""

    def __init__(self, surface, client):
        self.surface = surface
        self.client = client

    def call(self, operation, *path, body=None, **query):
        """Calls an operation and answers with what it answered, as plain data."""
        module = self.surface.module(operation)
        arguments = self.arguments(module, body, query)
        response = module.sync_detailed(*path, client=self.client, **arguments)
        self.surface.called.add(operation)
        if response.status_code >= 300:
            raise refusal(response)
        return plain(operation, response.parsed)

    def refused(self, reason, operation, *path, **arguments):
        """Calls an operation that has to be refused for this reason."""
        try:
            answer = self.call(operation, *path, **arguments)
        except Refused as refusal:
            if refusal.reason != reason:
                raise AssertionError(f"{operation}: {refusal}, not {reason}") from refusal
        else:
            raise AssertionError(f"{operation} was answered: {answer}")

    def first(self, operation, *path, accept, **query):
        """The first line that an operation without an end answers."""
        module = self.surface.module(operation)
        request = module._get_kwargs(*path, **query)
        request.setdefault("headers", {})["Accept"] = accept
        with self.client.get_httpx_client().stream(**request) as response:
            self.surface.called.add(operation)
            if response.status_code >= 300:
                response.read()
                raise refusal(response)
            return next(response.iter_lines())

    def arguments(self, module, body, query):
        """The body as the generated model of it, and enumerations as such."""
        kinds = typing.get_type_hints(module._get_kwargs)
        arguments = {name: parsed(kinds[name], value) for name, value in query.items()}
        if body is not None:
            arguments["body"] = kinds["body"].from_dict(body)
            plain("the body of " + module.__name__, arguments["body"])
        return arguments


def parsed(kind, value):
    """The member of an enumeration for its text; other values as they are."""
    for one in typing.get_args(kind) or (kind,):
        if isinstance(one, type) and hasattr(one, "__members__") and isinstance(value, str):
            return one(value)
    return value


def refusal(response):
    """The refusal that an answer is, in the form of google.rpc.Status or of OAuth 2.0."""
    try:
        answer = json.loads(response.content)
    except ValueError:
        answer = {}
    details = answer.get("details") or [{}]
    reason = answer.get("error") or details[0].get("reason")
    message = answer.get("message") or answer.get("error_description")
    return Refused(int(response.status_code), reason, message)


def plain(what, value):
    """A generated model as plain data. Fields that the document does not name are an error."""
    strangers = sorted(undocumented(value, ""))
    if strangers:
        raise Undocumented(f"{what}: {', '.join(strangers)}")
    if isinstance(value, list):
        return [item.to_dict() if hasattr(item, "to_dict") else item for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def undocumented(value, at):
    """Where a model holds fields that its schema does not name."""
    if isinstance(value, list):
        for item in value:
            yield from undocumented(item, at)
    elif hasattr(value, "__attrs_attrs__"):
        names = [attribute.name for attribute in value.__attrs_attrs__]
        # A schema of free fields alone is a map, in which every name is as good as another.
        if names != ["additional_properties"]:
            for name in getattr(value, "additional_properties", {}):
                yield f"{at}/{name}"
        for name in names:
            if name != "additional_properties":
                yield from undocumented(getattr(value, name), f"{at}/{name}")
