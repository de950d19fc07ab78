package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/rowan-storage/rowan/internal/config"
	"github.com/rowan-storage/rowan/internal/httpapi/client"
	"github.com/rowan-storage/rowan/internal/httpapi/wire"
	"github.com/rowan-storage/rowan/nbd"
)

// Appliance is a running appliance. It is safe for concurrent use.
type Appliance struct {
	api *client.Client
	// connections is how many NBD connections are made for each export.
	connections int
}

// New makes an Appliance of a client of its API. It does not connect yet.
func New(api *client.Client, connections int) *Appliance {
	return &Appliance{api: api, connections: connections}
}

// NoAddressError says that the appliance serves NBD nowhere that this process
// can reach.
type NoAddressError struct{ API string }

func (e *NoAddressError) Error() string {
	return fmt.Sprintf("the appliance at %s serves NBD on no address that can be used here without a certificate: "+
		"start it with --nbd unix:PATH as well", e.API)
}

// Dial opens an export, lun or lun@snapshot.
func (a *Appliance) Dial(ctx context.Context, export string) (*nbd.Client, error) {
	address, err := a.address(ctx)
	if err != nil {
		return nil, err
	}
	c, err := nbd.Dial(ctx, address.Network, address.Address, nbd.ClientOptions{Export: export, Connections: a.connections})
	if err != nil {
		return nil, fmt.Errorf("remote: opening %s at %s: %w", export, address.Address, err)
	}
	return c, nil
}

// address chooses where to speak NBD.
func (a *Appliance) address(ctx context.Context) (wire.NBD, error) {
	status, err := a.api.Status(ctx)
	if err != nil {
		return wire.NBD{}, err
	}
	var best *wire.NBD
	for _, n := range status.NBD {
		here := config.Address{Network: n.Network, Addr: n.Address}.Loopback()
		if n.TLS || !here {
			continue
		}
		if best == nil || n.Network == "unix" && best.Network != "unix" {
			best = &n
		}
	}
	if best == nil {
		return wire.NBD{}, &NoAddressError{a.api.Socket()}
	}
	return *best, nil
}

// notExist makes fs.ErrNotExist see what the API says is not there.
func notExist(err error) error {
	var p *wire.Problem
	if errors.As(err, &p) && (p.Code == wire.NotFound || p.Code == wire.Stale) {
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err
}
