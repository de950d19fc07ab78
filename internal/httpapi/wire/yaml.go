package wire

import (
	"fmt"
	"io"

	"github.com/danielgtaylor/huma/v2/yaml"
)

// YAML writes the JSON that it reads from r to w as YAML, as it comes in.
func YAML(w io.Writer, r io.Reader) error {
	if err := yaml.Convert(w, r); err != nil {
		return fmt.Errorf("wire: converting to YAML: %w", err)
	}
	return nil
}
