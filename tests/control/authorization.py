"""Who gets in where: every path of the control plane and of the gateway, and what each kind of credential gets there.

A path belongs to a door; the tables say what a credential gets at a door:

    in      let in (whatever is wrong with the request comes after that)
    401     refused, because nobody knows it
    403     refused, because it may not
    404     let in, but this organization's things do not exist for it: lists are without them, their names are 404
    other   let in, but to another workspace: lists are without this one's things, their names are 403
    sign-in sent to the console's sign-in page
    same    what anybody gets: credentials make no difference
"""

from __future__ import annotations

DOORS = {
    "open": "anybody: what it answers is public, or it checks what the body brings",
    "tunnels": "the Tunnels API: workspace:manage_tunnels, in the credential's workspace",
    "alias": "its deprecated surface: org:manage_tunnels, in the whole organization",
    "admin": "the Admin API: org:admin, of an account whose role is still admin",
    "operator": "an operator's credential, and no token of any scope",
    "service": "service keys of edges and gateways",
    "gateway": "service keys of gateways alone",
    "enter": "the way into the console and out of it",
    "workspace": "a session chooses the workspace it looks at, among those of its organization",
    "page": "the console: a session, by cookie",
    "form": "a form of the console: a session that may change things, with the token of its pages",
}

PATHS = """
open          GET     /healthz
open          GET     /openapi.json
open          POST    /v1/oauth/token

tunnels       GET     /v1/tunnels
tunnels       POST    /v1/tunnels
tunnels       GET     /v1/tunnels/{tunnel_id}
tunnels       POST    /v1/tunnels/{tunnel_id}/archive
tunnels       POST    /v1/tunnels/{tunnel_id}/reveal_token
tunnels       POST    /v1/tunnels/{tunnel_id}/rotate_token
tunnels       GET     /v1/tunnels/{tunnel_id}/certificates
tunnels       POST    /v1/tunnels/{tunnel_id}/certificates
tunnels       GET     /v1/tunnels/{tunnel_id}/certificates/{certificate_id}
tunnels       POST    /v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive

alias         GET     /v1/organizations/tunnels
alias         GET     /v1/organizations/tunnels/{tunnel_id}
alias         POST    /v1/organizations/tunnels/{tunnel_id}/archive
alias         POST    /v1/organizations/tunnels/{tunnel_id}/reveal_token
alias         POST    /v1/organizations/tunnels/{tunnel_id}/rotate_token
alias         GET     /v1/organizations/tunnels/{tunnel_id}/certificates
alias         POST    /v1/organizations/tunnels/{tunnel_id}/certificates
alias         GET     /v1/organizations/tunnels/{tunnel_id}/certificates/{certificate_id}
alias         POST    /v1/organizations/tunnels/{tunnel_id}/certificates/{certificate_id}/archive

admin         GET     /v1/organizations/service_accounts
admin         POST    /v1/organizations/service_accounts
admin         GET     /v1/organizations/service_accounts/{account_id}
admin         POST    /v1/organizations/service_accounts/{account_id}
admin         POST    /v1/organizations/service_accounts/{account_id}/archive
admin         GET     /v1/organizations/service_accounts/{account_id}/workspaces
admin         POST    /v1/organizations/service_accounts/{account_id}/workspaces
admin         DELETE  /v1/organizations/service_accounts/{account_id}/workspaces/{workspace_id}
admin         GET     /v1/organizations/workspaces
admin         POST    /v1/organizations/workspaces
admin         GET     /v1/organizations/workspaces/{workspace_id}
admin         POST    /v1/organizations/workspaces/{workspace_id}
admin         POST    /v1/organizations/workspaces/{workspace_id}/archive
admin         GET     /v1/organizations/workspaces/{workspace_id}/service_accounts
admin         POST    /v1/organizations/workspaces/{workspace_id}/service_accounts
admin         GET     /v1/organizations/workspaces/{workspace_id}/service_accounts/{account_id}
admin         POST    /v1/organizations/workspaces/{workspace_id}/service_accounts/{account_id}
admin         DELETE  /v1/organizations/workspaces/{workspace_id}/service_accounts/{account_id}
admin         GET     /v1/organizations/federation_issuers
admin         POST    /v1/organizations/federation_issuers
admin         GET     /v1/organizations/federation_issuers/{issuer_id}
admin         POST    /v1/organizations/federation_issuers/{issuer_id}
admin         POST    /v1/organizations/federation_issuers/{issuer_id}/archive
admin         GET     /v1/organizations/federation_rules
admin         POST    /v1/organizations/federation_rules
admin         GET     /v1/organizations/federation_rules/{rule_id}
admin         POST    /v1/organizations/federation_rules/{rule_id}
admin         POST    /v1/organizations/federation_rules/{rule_id}/archive
admin         GET     /v1/organizations/federation_rules/{rule_id}/workspaces
admin         POST    /v1/organizations/federation_rules/{rule_id}/workspaces
admin         DELETE  /v1/organizations/federation_rules/{rule_id}/workspaces/{workspace_id}

operator      GET     /admin/v1/api_keys
operator      POST    /admin/v1/api_keys
operator      POST    /admin/v1/api_keys/{key_id}
operator      POST    /admin/v1/tunnels_api_keys
operator      GET     /admin/v1/access_tokens
operator      POST    /admin/v1/access_tokens/{token_id}/revoke
operator      POST    /admin/v1/access_tokens/revoke_all
operator      GET     /admin/v1/audit
operator      GET     /admin/v1/authentication_events
operator      GET     /admin/v1/events
operator      GET     /admin/v1/tunnels/{tunnel_id}/connectors
operator      GET     /admin/v1/tunnels/{tunnel_id}/traffic

service       GET     /internal/v1/tunnels
service       GET     /internal/v1/changes
service       POST    /internal/v1/events
gateway       GET     /internal/v1/watches
gateway       POST    /internal/v1/authenticate

enter         GET     /console/sign-in
enter         POST    /console/sign-in
enter         GET     /console/sign-in/provider
enter         GET     /console/sign-in/callback
enter         GET     /console/
page          GET     /console/tunnels
page          GET     /console/tunnels/live
page          GET     /console/tunnels/{tunnel_id}
page          GET     /console/tunnels/{tunnel_id}/live
page          GET     /console/identity
page          GET     /console/identity/rules/{rule_id}/connect
page          GET     /console/identity/rules/{rule_id}/live
page          GET     /console/playground
page          GET     /console/agents
page          GET     /console/keys
page          GET     /console/audit
workspace     POST    /console/workspace
form          POST    /console/tunnels
form          POST    /console/tunnels/{tunnel_id}/token
form          POST    /console/tunnels/{tunnel_id}/rotate
form          POST    /console/tunnels/{tunnel_id}/archive
form          POST    /console/tunnels/{tunnel_id}/watches
form          POST    /console/tunnels/{tunnel_id}/watches/remove
form          POST    /console/tunnels/{tunnel_id}/certificates
form          POST    /console/tunnels/{tunnel_id}/certificates/{certificate_id}/revoke
form          POST    /console/identity/issuers
form          POST    /console/identity/accounts
form          POST    /console/identity/rules
form          POST    /console/identity/{kind}/{thing_id}/archive
form          POST    /console/playground
form          POST    /console/keys
form          POST    /console/keys/{key_id}/status
form          POST    /console/keys/tokens/{token_id}/revoke
enter         POST    /console/sign-out
"""

CONTROL = """
credential                        open tunnels alias admin operator service gateway enter workspace page    form

nothing                           in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
garbage                           in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
workspace key                     in   403     403   403   403      401     401     same  sign-in   sign-in sign-in
workspace key, inactive           in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
workspace key, expired            in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
admin key                         in   403     403   403   403      401     401     same  sign-in   sign-in sign-in

tunnels key                       in   in      403   403   403      401     401     same  sign-in   sign-in sign-in
tunnels key, revoked              in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
tunnels key, expired              in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
tunnels key, another workspace    in   other   403   403   403      401     401     same  sign-in   sign-in sign-in
tunnels key, archived workspace   in   403     403   403   403      401     401     same  sign-in   sign-in sign-in
tunnels key, another organization in   404     403   403   403      401     401     same  sign-in   sign-in sign-in

token, workspace:manage_tunnels   in   in      403   403   403      401     401     same  sign-in   sign-in sign-in
token, workspace:developer        in   403     403   403   403      401     401     same  sign-in   sign-in sign-in
token, workspace:inference        in   403     403   403   403      401     401     same  sign-in   sign-in sign-in
token, org:manage_tunnels         in   403     in    403   403      401     401     same  sign-in   sign-in sign-in
token, org:admin                  in   403     403   in    403      401     401     same  sign-in   sign-in sign-in
token, org:admin, no longer admin in   403     403   403   403      401     401     same  sign-in   sign-in sign-in
token, its account archived       in   401     401   401   401      401     401     same  sign-in   sign-in sign-in

bootstrap credential              in   in      in    in    in       401     401     same  sign-in   sign-in sign-in
bootstrap credential, another's   in   404     404   404   404      401     401     same  sign-in   sign-in sign-in
edge's service key                in   401     401   401   401      in      403     same  sign-in   sign-in sign-in
gateway's service key             in   401     401   401   401      in      in      same  sign-in   sign-in sign-in

session of a manager              in   401     401   401   401      401     401     same  in        in      in
session of a viewer               in   401     401   401   401      401     401     same  in        in      403
session of a manager, ended       in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
session of a manager, as a bearer in   401     401   401   401      401     401     same  sign-in   sign-in sign-in
session of another's manager      in   401     401   401   401      401     401     same  403       404     404
"""

GATEWAY_DOORS = {
    "open": "anybody: health, and what browsers and authorization servers fetch",
    "messages": "the Messages API: an API key, or a token with workspace:inference or workspace:developer",
    "console": "the console's playground: its ticket",
}

GATEWAY_PATHS = """
open      GET     /healthz
open      GET     /oauth/start/{state}
open      GET     /oauth/callback
open      GET     /oauth/client
messages  POST    /v1/messages
messages  POST    /v1/messages/count_tokens
messages  GET     /v1/models
messages  GET     /v1/models/{model:path}
messages  GET     /v1/vaults/{vault}
messages  POST    /v1/vaults/{vault}/connections
messages  DELETE  /v1/vaults/{vault}/connections
messages  POST    /v1/vaults/{vault}/credentials
console   POST    /internal/v1/playground
"""

GATEWAY = """
credential                        open messages console

nothing                           in   401      401
garbage                           in   401      401
workspace key                     in   in       403
workspace key, inactive           in   401      401
workspace key, expired            in   401      401
admin key                         in   403      403

tunnels key                       in   403      403
tunnels key, revoked              in   401      401
tunnels key, expired              in   401      401
tunnels key, another workspace    in   403      403
tunnels key, archived workspace   in   401      401
tunnels key, another organization in   403      403

token, workspace:manage_tunnels   in   403      403
token, workspace:developer        in   in       403
token, workspace:inference        in   in       403
token, org:manage_tunnels         in   403      403
token, org:admin                  in   403      403
token, org:admin, no longer admin in   403      403
token, its account archived       in   401      401

bootstrap credential              in   403      403
bootstrap credential, another's   in   403      403
edge's service key                in   401      401
gateway's service key             in   401      401

session of a manager              in   401      401
session of a viewer               in   401      401
session of a manager, ended       in   401      401
session of a manager, as a bearer in   401      401
session of another's manager      in   401      401
playground ticket                 in   403      in
"""
