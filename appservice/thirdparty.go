package appservice

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
)

// lookupTime bounds how long a client waits for a service.
const lookupTime = 10 * time.Second

// Kind of what is looked up in a third-party network.
type Kind string

const (
	Locations Kind = "location"
	Users     Kind = "user"
)

func noProtocol() error { return errcode.NotFound("no application service knows this protocol") }

// Protocols describes all third-party networks that services bridge to.
// spec: client-server-api#get_matrixclientv3thirdpartyprotocols
func (v *Services) Protocols(ctx context.Context) (map[string]jsontext.Value, error) {
	all := map[string]jsontext.Value{}
	if v == nil {
		return all, nil
	}
	for _, s := range v.All() {
		for _, name := range s.Protocols {
			if all[name] != nil {
				continue
			}
			described, err := v.Protocol(ctx, name)
			if err != nil {
				continue // it does not answer; the others may
			}
			all[name] = described
		}
	}
	return all, ctx.Err()
}

// Protocol describes one network. Several services may each have instances of it.
// spec: client-server-api#get_matrixclientv3thirdpartyprotocolprotocol
func (v *Services) Protocol(ctx context.Context, name string) (jsontext.Value, error) {
	var described map[string]jsontext.Value
	instances := []jsontext.Value{}
	for _, s := range v.knowing(name) {
		var d map[string]jsontext.Value
		if err := v.lookUp(ctx, s, "/protocol/"+url.PathEscape(name), nil, &d); err != nil {
			continue
		}
		instances = append(instances, s.instances(d["instances"])...)
		if described == nil {
			described = d
		}
	}
	if described == nil {
		return nil, noProtocol()
	}
	list, err := json.Marshal(instances)
	if err != nil {
		return nil, err
	}
	described["instances"] = list
	return json.Marshal(described, json.Deterministic(true))
}

// instances gives each instance an id that is its own on this server.
func (s *Service) instances(raw jsontext.Value) (list []jsontext.Value) {
	var all []map[string]jsontext.Value
	if json.Unmarshal(raw, &all) != nil {
		return nil // a service that is wrong about its instances has none
	}
	for _, instance := range all {
		var network string
		if json.Unmarshal(instance["network_id"], &network) != nil {
			continue
		}
		name, err := json.Marshal(s.ID + "|" + network)
		if err != nil {
			continue
		}
		instance["instance_id"] = name
		if b, err := json.Marshal(instance, json.Deterministic(true)); err == nil {
			list = append(list, b)
		}
	}
	return list
}

// LookUp finds locations or users of one network by its own fields.
// spec: client-server-api#get_matrixclientv3thirdpartylocationprotocol
func (v *Services) LookUp(ctx context.Context, kind Kind, protocol string, fields url.Values) ([]jsontext.Value, error) {
	services := v.knowing(protocol)
	if len(services) == 0 {
		return nil, noProtocol()
	}
	return v.collect(ctx, services, kind, "/"+string(kind)+"/"+url.PathEscape(protocol), fields)
}

// LookUpMatrix finds locations or users of any network by an alias or user id of ours.
// spec: client-server-api#get_matrixclientv3thirdpartylocation
func (v *Services) LookUpMatrix(ctx context.Context, kind Kind, name string) ([]jsontext.Value, error) {
	key := map[Kind]string{Locations: "alias", Users: "userid"}[kind]
	var asked []*Service
	if v != nil {
		for _, s := range v.All() {
			if s.URL != "" && len(s.Protocols) > 0 {
				asked = append(asked, s)
			}
		}
	}
	return v.collect(ctx, asked, kind, "/"+string(kind), url.Values{key: {name}})
}

// collect asks several services and joins what they find.
func (v *Services) collect(ctx context.Context, services []*Service, kind Kind, path string, query url.Values) ([]jsontext.Value, error) {
	found := []jsontext.Value{}
	for _, s := range services {
		var list []jsontext.Value
		if err := v.lookUp(ctx, s, path, query, &list); err != nil {
			continue // it found nothing, or is away
		}
		for _, item := range list {
			if complete(kind, item) {
				found = append(found, item)
			}
		}
	}
	return found, ctx.Err()
}

// complete says whether a service's find has what clients rely on.
func complete(kind Kind, item jsontext.Value) bool {
	var f struct {
		Alias    string         `json:"alias"`
		User     string         `json:"userid"`
		Protocol string         `json:"protocol"`
		Fields   map[string]any `json:"fields"`
	}
	if json.Unmarshal(item, &f) != nil || f.Protocol == "" || f.Fields == nil {
		return false
	}
	if kind == Locations {
		return f.Alias != ""
	}
	return f.User != ""
}

func (v *Services) knowing(protocol string) (list []*Service) {
	if v == nil {
		return nil
	}
	for _, s := range v.All() {
		if s.URL != "" && slices.Contains(s.Protocols, protocol) {
			list = append(list, s)
		}
	}
	return list
}

// lookUp asks one service.
// spec: application-service-api#third-party-networks
func (v *Services) lookUp(ctx context.Context, s *Service, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	a, err := v.request(ctx, s, http.MethodGet, "/_matrix/app/v1/thirdparty"+path, query, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("application service %s answered with status %d", s.ID, a.status)
	}
	return json.Unmarshal(a.body, into)
}
