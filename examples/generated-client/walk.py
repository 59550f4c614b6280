#!/usr/bin/env python3
"""Walks the whole REST surface of a control plane with a generated client.

Every operation of the document is called at least once, as the agent whose business it is. An
answer with a field that the document does not name, a refusal nobody expected and an operation
that was left out are failures.
"""

import argparse
import base64
import hashlib
import hmac
import json
import pathlib
import secrets
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from surface import Surface

PATIENCE = 60


def main():
    arguments = parse()
    with tempfile.TemporaryDirectory() as place:
        surface = generate(arguments.address, pathlib.Path(place))
        walk = Walk(surface, arguments)
        for stretch in STRETCHES:
            print(stretch.__doc__, flush=True)
            stretch(walk)
    if arguments.secrets_file:
        arguments.secrets_file.write_text("\n".join(walk.secrets))
    missing = surface.missing()
    if missing:
        sys.exit(f"never called: {', '.join(missing)}")
    print(f"{len(surface.called)} of {len(surface.ids)} operations called")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", required=True, help="the control plane, http://host:port")
    parser.add_argument("--key-file", required=True, type=pathlib.Path, help="an administrator's API key")
    parser.add_argument("--api", required=True, help="an external API with GET /v1/status")
    parser.add_argument("--token-file", required=True, type=pathlib.Path, help="tokens of it, three lines")
    parser.add_argument("--task-queue", required=True, help="the queue of a worker that runs ToolTree")
    secret = "where to write what must have been kept nowhere"
    parser.add_argument("--secrets-file", type=pathlib.Path, help=secret)
    return parser.parse_args()


def generate(address, place):
    """Generates a client of the document that the control plane serves."""
    # No proxy: the control plane is reached as the client will reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address + "/openapi.json", timeout=30) as answer:
        document = answer.read()
    (place / "openapi.json").write_bytes(document)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    command += ["--fail-on-warning", "--config", pathlib.Path(__file__).with_name("generator.yaml")]
    command += ["--path", place / "openapi.json", "--output-path", place / "generated"]
    generator = subprocess.run(command, capture_output=True, text=True)
    if generator.returncode != 0:
        sys.exit(f"no client of this document:\n{generator.stdout}{generator.stderr}")
    sys.path.insert(0, str(place))
    return Surface("generated", json.loads(document))


class Walk:
    """Who walks, and what has been found on the way."""

    def __init__(self, surface, arguments):
        self.surface = surface
        self.address = arguments.address
        self.api = arguments.api
        self.queue = arguments.task_queue
        self.tokens = arguments.token_file.read_text().split()
        self.admin = self.bearer(arguments.key_file.read_text().strip())
        self.nobody = surface.anonymous(arguments.address)
        self.agents = {}
        # What no database, log or history may hold as it is.
        self.secrets = []
        # Every walk has names of its own, so that there can be a second one.
        self.mark = secrets.token_hex(3)

    def name(self, text):
        return f"{text}-{self.mark}"

    def secret(self, text):
        self.secrets.append(text)
        return text

    def bearer(self, token):
        return self.surface.with_token(self.address, token)


def agents(walk):
    """agents and their keys"""
    admin = walk.admin
    roles = {
        "publisher": "ROLE_TOOL_PUBLISHER",
        "decider": "ROLE_POLICY_ADMIN",
        "caller": "ROLE_USER",
        "heir": "ROLE_USER",
        "reader": "ROLE_AUDITOR",
        "hand": "ROLE_WORKER",
    }
    for text, role in roles.items():
        name = walk.name(text)
        kind = "AGENT_KIND_BOT" if text == "hand" else "AGENT_KIND_SERVICE"
        admin.call("CreateAgent", body={"name": name, "kind": kind, "roles": [role]})
        request = {"agent": name, "name": "walk", "ttl": "3600s"}
        if text == "hand":
            request["taskQueues"] = [walk.queue]
        key = admin.call("CreateApiKey", body=request)
        walk.agents[text] = walk.bearer(walk.secret(key["secret"]))
    heir = walk.name("heir")
    changed = admin.call("UpdateAgent", heir, body={"addRoles": ["ROLE_AUDITOR"]})
    assert len(changed["roles"]) == 2, changed
    listed = admin.call("ListAgents", page_size=200)
    assert heir in {agent["name"] for agent in listed["agents"]}, listed
    reader = walk.name("reader")
    assert admin.call("GetAgent", heir) == changed
    assert walk.agents["caller"].call("GetAgent", walk.name("caller"))["roles"] == ["ROLE_USER"]
    walk.agents["caller"].refused("not_found", "GetAgent", heir)
    keys = walk.agents["reader"].call("ListApiKeys", page_size=200)["keys"]
    own = next(key for key in keys if key["agent"] == reader)
    following = admin.call("RotateApiKey", own["id"], body={"overlap": "60s"})
    walk.agents["reader"] = walk.bearer(walk.secret(following["secret"]))
    admin.call("RevokeApiKey", own["id"], body={})
    walk.nobody.refused("key_missing", "ListAgents")
    walk.agents["caller"].refused("role", "CreateAgent", body={"name": "x"})


def accounts(walk):
    """an account, its sessions and its second factor"""
    name = walk.name("una")
    first, second = (walk.secret(secrets.token_urlsafe(18)) for _ in range(2))
    walk.admin.call("CreateAgent", body={"name": name, "kind": "AGENT_KIND_USER", "roles": ["ROLE_USER"]})
    invitation = walk.secret(walk.admin.call("InviteAgent", name, body={})["secret"])
    register = {"name": name, "password": first}
    walk.nobody.refused("registration_closed", "Accounts.Register", body=register)
    walk.nobody.call("Accounts.Register", body={**register, "invitation": invitation})
    sign_in = {"grant_type": "password", "client_id": "walk", "username": name, "password": first}
    session = walk.nobody.call("OAuth.Token", body=sign_in)
    user = walk.bearer(session["access_token"])
    user.call("ChangePassword", body={"password": first, "newPassword": second})
    session = walk.nobody.call("OAuth.Token", body={**sign_in, "password": second})
    user = walk.bearer(walk.secret(session["access_token"]))
    secret, codes = enrol(user, second)
    walk.secret(secret)
    user.refused("key_not_valid", "ListSessions")
    walk.nobody.refused("invalid_grant", "OAuth.Token", body={**sign_in, "password": second})
    with_code = {**sign_in, "password": second, "otp": codes[0]}
    user = walk.bearer(walk.nobody.call("OAuth.Token", body=with_code)["access_token"])
    shown = {"password": second, "code": one_time_code(secret, ahead=1)}
    first_code, second_code = user.call("RenewRecoveryCodes", body=shown)["recoveryCodes"][:2]
    session = walk.nobody.call("OAuth.Token", body={**with_code, "otp": first_code})
    refresh = {
        "grant_type": "refresh_token",
        "client_id": "walk",
        "refresh_token": walk.secret(session["refresh_token"]),
    }
    session = walk.nobody.call("OAuth.Token", body=refresh)
    user = walk.bearer(walk.secret(session["access_token"]))
    walk.secret(session["refresh_token"])
    others = [one for one in user.call("ListSessions")["sessions"] if not one.get("current")]
    user.call("EndSession", others[0]["id"], body={})
    user.call("RemoveSecondFactor", body={"code": second_code})
    enrol(user, second)
    walk.admin.call("ResetSecondFactor", name, body={})
    walk.nobody.call("OAuth.Revoke", body={"token": session["refresh_token"]})
    walk.nobody.refused("invalid_grant", "OAuth.Token", body=refresh)
    assert walk.nobody.call("OAuth.Keys")["keys"]
    assert walk.nobody.call("OAuth.Metadata")["token_endpoint"].endswith("/token")


def enrol(user, password):
    """Enrols a second factor and answers with its secret and its recovery codes."""
    secret = user.call("EnrolSecondFactor", body={"password": password})["secret"]
    confirmed = user.call("ConfirmSecondFactor", body={"code": one_time_code(secret)})
    return secret, confirmed["recoveryCodes"]


def one_time_code(secret, ahead=0):
    """The code of this moment, or of some steps later (RFC 6238): six digits, 30 seconds, SHA-1."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(time.time()) // 30 + ahead), hashlib.sha1)
    at = digest[-1] & 15
    return f"{(struct.unpack_from('>I', digest, at)[0] & 0x7FFFFFFF) % 10**6:06}"


def tools(walk):
    """tools: proposed, changed, approved, imported"""
    publisher, decider = walk.agents["publisher"], walk.agents["decider"]
    tool = {"name": walk.name("status"), "method": "GET", "baseUrl": walk.api, "path": "/v1/status"}
    name = tool["name"]
    proposed = publisher.call("RegisterTool", body={**tool, "auth": {"bearer": {}}})
    publisher.refused("role", "ApproveTool", name, body=pin(proposed))
    decider.call("RejectTool", name, body={"version": proposed["version"], "reason": "no description"})
    described = {**tool, "description": "Tells how the API is.", "tags": ["walk"]}
    changed = publisher.call("UpdateTool", name, body=described, expected_version=proposed["version"])
    decider.call("ApproveTool", name, body=pin(changed))
    later = {**described, "description": "Not approved."}
    publisher.call("UpdateTool", name, body=later, staged=True)
    publisher.call("RevertTool", name, body={})
    assert walk.agents["reader"].call("GetTool", name)["state"] == "TOOL_STATE_APPROVED"
    versions = publisher.call("ListToolVersions", name)["versions"]
    assert len(versions) >= 2, versions
    listed = walk.agents["reader"].call("ListTools", query="status", tags=["walk"], page_size=10)
    assert name in {tool["name"] for tool in listed["tools"]}, listed
    walk.tool = name
    import_tools(walk)


def import_tools(walk):
    publisher, decider = walk.agents["publisher"], walk.agents["decider"]
    operation = {"operationId": "ping", "responses": {"200": {"description": "It is there."}}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Ping", "version": "1"},
        "servers": [{"url": walk.api}],
        "paths": {"/v1/ping": {"get": operation}},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }
    request = {"document": json.dumps(document), "prefix": walk.name("api")}
    imported = publisher.call("ImportTools", body=request)["tools"][0]
    decider.call("ApproveTool", imported["name"], body=pin(imported))
    publisher.call("RetireTool", imported["name"], body={"stopCalls": True})
    publisher.call("DeleteTool", imported["name"])


def pin(tool):
    return {"version": tool["version"], "hash": tool["hash"]}


def policies(walk):
    """policies, and access that somebody has to approve"""
    decider, caller = walk.agents["decider"], walk.agents["caller"]
    name = walk.name("walkers")
    policy = {
        "name": name,
        "effect": "allow",
        "who": {"agents": [walk.name("caller")]},
        "what": {"tools": [walk.tool]},
        "actions": ["execute"],
    }
    made = decider.call("CreatePolicy", body=policy)
    check = {"tool": walk.tool, "action": "execute"}
    assert caller.call("CheckAccess", body=check)["allowed"]
    policy["requiresApproval"] = True
    decider.call("UpdatePolicy", name, body={"policy": policy, "expectedVersion": made["version"]})
    checked = caller.call("CheckAccess", body=check)
    assert not checked.get("allowed") and name in json.dumps(checked), checked
    assert decider.call("GetPolicy", name)["policy"]["requiresApproval"]
    listed = decider.call("ListPolicies", page_size=200)["policies"]
    assert name in {one["policy"]["name"] for one in listed}, listed
    assert "execute" in json.dumps(decider.call("GetPolicySchema"))
    ask = {"tool": walk.tool, "policy": name, "reason": "the walk", "lasts": "3600s"}
    asked = caller.call("RequestAccess", body=ask)
    caller.refused("role", "DecideAccess", asked["id"], body={"approve": True, "reason": "mine"})
    waiting = decider.call("ListAccessRequests", pending=True, page_size=200)["requests"]
    assert asked["id"] in {one["id"] for one in waiting}, waiting
    decider.call("DecideAccess", asked["id"], body={"approve": True, "reason": "it is a walk"})
    assert caller.call("GetAccessRequest", asked["id"])["state"] == "approved"
    assert caller.call("CheckAccess", body=check)["allowed"]
    walk.policy, walk.access = name, asked["id"]


def trees(walk):
    """a tree and its token"""
    caller = walk.agents["caller"]
    node = {"steps": [{"tool": walk.tool}], "pauseMs": 200}
    start = {
        "workflowId": walk.name("tree"),
        "workflowType": "ToolTree",
        "taskQueue": walk.queue,
        "inputJson": json.dumps({**node, "children": [{"name": "a", "node": node}]}),
        "tokens": [{"token": walk.tokens[0], "audiences": [walk.api]}],
        "tools": [walk.tool],
    }
    tree = start["workflowId"]
    caller.call("StartTree", body=start)
    assert tree in {one["id"]["workflowId"] for one in caller.call("ListTrees")["trees"]}
    assert len(converged(caller, tree, 1)["nodes"]) == 2
    line = caller.first("WatchTree", tree, accept="application/x-ndjson", keep_watching=True)
    assert tree in line, line
    tokens(walk, caller, tree)
    caller.call("AllowTools", tree, body={"tools": [], "withdraw": [walk.tool]})
    walk.admin.call("TransferTree", tree, body={"to": walk.name("heir")})
    caller.refused("not_found", "GetTree", tree)
    walk.agents["heir"].call("StopTree", tree, body={"terminate": True, "reason": "the walk ends"})


def tokens(walk, caller, tree):
    deposit = {"token": walk.tokens[1], "audiences": [walk.api]}
    caller.call("RotateToken", tree, "default", body=deposit)
    converged(caller, tree, 2)
    caller.call("RollbackToken", tree, "default", body={"version": 1})
    converged(caller, tree, 3)
    caller.call("ReissueToken", tree, "default", body={"ttl": "172800s"})
    caller.call("RevokeToken", tree, "default", body={"version": 2, "wait": "30s"})
    third = {"token": walk.tokens[2], "audiences": [walk.api]}
    caller.call("SetToken", tree, "spare", body=third)
    versions = caller.call("GetTokenStatus.1", tree)["versions"]
    assert {one["slot"] for one in versions} == {"default", "spare"}, versions
    caller.call("GetTokenStatus", tree, "default")
    reason = {"reason": "the walk"}
    caller.refused("second_factor_required", "RevealToken", tree, "default", body=reason)


def converged(caller, tree, version):
    """The tree once all its nodes have a version."""
    until = time.monotonic() + PATIENCE
    while True:
        view = caller.call("GetTree", tree)
        orders = [slot.get("order", {}) for node in view["nodes"] for slot in node.get("slots", [])]
        if view.get("converged") and any(order.get("version") == version for order in orders):
            return view
        if time.monotonic() > until:
            raise AssertionError(f"not converged on {version}: {view}")
        time.sleep(0.2)


def credentials(walk):
    """a stored credential"""
    admin, name = walk.admin, walk.name("stored")
    made = {
        "name": name,
        "audiences": [walk.api],
        "secret": walk.secret(secrets.token_urlsafe(32)),
        "owner": walk.name("publisher"),
        "rotateEvery": "86400s",
    }
    admin.call("CreateCredential", body=made)
    binding = {"slot": "default", "workflowType": walk.name("Bound")}
    admin.call("BindCredential", name, body=binding)
    owner = walk.agents["publisher"]
    rotation = {"secret": walk.secret(secrets.token_urlsafe(32)), "ifVersion": 1}
    owner.call("RotateCredential", name, body=rotation)
    owner.refused("not_obtained", "RenewCredential", name, body={})
    shown = owner.call("GetCredential", name)
    assert len(shown["versions"]) == 2 and made["secret"] not in json.dumps(shown), shown
    assert name in {one["name"] for one in owner.call("ListCredentials")["credentials"]}
    admin.call("RevokeCredential", name, body={"version": 1, "reason": "the walk"})
    admin.call("UnbindCredential", name, body=binding)
    admin.call("RemoveCredential", name, body={"reason": "the walk"})


def work(walk):
    """what workers ask, without a workflow: refused"""
    hand = walk.agents["hand"]
    definitions = [{"workflowType": "Walked", "slots": ["default"]}]
    hand.call("RegisterDefinitions", body={"taskQueue": walk.queue, "definitions": definitions})
    claims = {
        "namespace": "default",
        "taskQueue": walk.queue,
        "workflowId": walk.name("nowhere"),
        "runId": "00000000-0000-4000-8000-000000000000",
        "workflowType": "Walked",
        "activityId": "1",
        "attempt": 1,
    }
    slot, tool = {"slot": "default"}, {"tool": walk.tool}
    asks = {
        "Issuers": {"slots": ["default"]},
        "Redeem": {**slot, **tool, "grant": "xylem1.none"},
        "TakeIn": {**slot, "token": walk.tokens[2]},
        "Select": {"childWorkflowId": "child", "include": ["default"]},
        "AppendAudit": {"entries": [{"action": "tool_refused", "reason": "walk", **slot, **tool}]},
    }
    for operation, ask in asks.items():
        hand.refused("not_running", operation, body={"claims": claims, **ask})
    lease = {"leaseId": "walk", "outcome": "CALL_OUTCOME_NOT_SENT"}
    hand.refused("not_found", "Release", body=lease)


def audit(walk):
    """the audit log, alerts, backups, keys"""
    reader = walk.agents["reader"]
    entries = reader.call("ListAudit", filter_agent=walk.name("caller"), page_size=200)["entries"]
    assert entries, "nothing is in the log"
    assert json.loads(reader.first("TailAudit", accept="application/x-ndjson", last=10))
    assert json.loads(reader.first("ExportAudit", accept="application/x-ndjson"))
    verified = reader.call("VerifyAudit")
    assert verified[-1]["result"]["intact"], verified
    reader.call("ListAlerts", page_size=10)
    until = time.monotonic() + PATIENCE
    while not reader.call("ListUsage", tool=walk.tool, period="USAGE_PERIOD_HOUR").get("usage"):
        assert time.monotonic() < until, "no usage was counted"
        time.sleep(1)
    walk.admin.refused("archive_not_configured", "ArchiveAudit", body={})
    walk.admin.refused("backups_not_configured", "BackUp", body={})
    walk.admin.refused("not_found", "ConfirmRestore", body={"reason": "the walk"})
    next_key = walk.admin.call("RotateSigningKey", body={})["keyId"]
    assert next_key in [key["kid"] for key in walk.nobody.call("OAuth.Keys")["keys"]]
    walk.admin.call("RotateIssuerKey", body={})
    rewrapped = walk.admin.call("RewrapKeys", body={})
    assert rewrapped["currentKeyId"] and not rewrapped.get("older"), rewrapped
    other = {"currentKeyId": "another"}
    walk.admin.refused("other_current_key", "RewrapKeys", body=other)
    walk.admin.call("GetStatus")


def ends(walk):
    """what was made is ended"""
    walk.agents["caller"].call("EndAccess", walk.access, body={"reason": "the walk ends"})
    walk.agents["decider"].call("RetirePolicy", walk.policy, body={"note": "the walk ends"})
    walk.agents["publisher"].call("RetireTool", walk.tool, body={})
    for text in walk.agents:
        walk.admin.call("RetireAgent", walk.name(text), body={})
    una = walk.name("una")
    exported = walk.admin.first("ExportAgentData", una, accept="application/x-ndjson")
    assert una in exported, exported
    walk.admin.call("RetireAgent", una, body={})
    walk.admin.call("EraseAgent", una, body={})
    walk.agents["caller"].refused("key_not_valid", "ListTrees")
    gone = walk.name("heir")
    kept = walk.admin.first("ExportAgentData", gone, accept="application/x-ndjson")
    assert json.loads(json.loads(kept)["line"])["data"]["name"] == gone, kept
    walk.admin.call("EraseAgent", gone, body={})


ACTIONS = """
    access_approved access_ended access_requested
    agent_created agent_data_exported agent_erased agent_invited agent_retired agent_updated
    audit_exported
    credential_bound credential_created credential_removed credential_revoked credential_rotated
    credential_unbound
    definitions_registered deposit issuer_rotated
    key_created key_revoked key_rotated
    outcome
    password_changed policy_created policy_retired policy_updated
    recovery_code_used recovery_codes_renewed redeem registered reissue revoke rollback
    second_factor_enrolled second_factor_removed second_factor_reset session_ended signed_in
    signing_key_made
    token_issued
    tool_approved tool_deleted tool_registered tool_rejected tool_retired tool_reverted tool_updated
    tools_allowed
    tree_bound tree_opened tree_stopped tree_transferred
""".split()


def log(walk):
    """what was done is in the log"""
    written = {action: walk.admin.call("ListAudit", filter_action=action, page_size=1) for action in ACTIONS}
    missing = [action for action, page in written.items() if not page.get("entries")]
    assert not missing, f"not in the log: {', '.join(missing)}"


STRETCHES = [agents, accounts, tools, policies, trees, credentials, work, audit, ends, log]

if __name__ == "__main__":
    main()
