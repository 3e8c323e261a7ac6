// Prints what kubectl 1.36.3 makes of manifest files: the values of kubectl.json come from this program, with
// k8s.io/apimachinery v0.36.3, sigs.k8s.io/yaml v1.6.0 and go.yaml.in/yaml/v2 v2.4.3. Standard input is a JSON list of
// texts; the output has a line for each, with the objects that reach the API server and the error that ends the reading.
// `kubectl annotate --local` 1.36.3 gave the same values for the plain scalars.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

type raw struct{ b []byte }

func (r *raw) UnmarshalJSON(in []byte) error {
	r.b = append(r.b[:0], in...)
	return nil
}

type result struct {
	Docs  []any  `json:"docs"`
	Error string `json:"error,omitempty"`
}

func read(text string) (res result) {
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	res.Docs = []any{}
	for {
		var r raw
		if err := d.Decode(&r); err != nil {
			if err != io.EOF {
				res.Error = err.Error()
			}
			return
		}
		r.b = bytes.TrimSpace(r.b)
		if len(r.b) == 0 || bytes.Equal(r.b, []byte("null")) {
			continue
		}
		var v any
		if err := utiljson.Unmarshal(r.b, &v); err != nil {
			res.Error = err.Error()
			return
		}
		// What kubectl sends to the API server, and what that one reads.
		sent, err := json.Marshal(v)
		if err != nil {
			res.Error = err.Error()
			return
		}
		var got any
		if err := utiljson.Unmarshal(sent, &got); err != nil {
			res.Error = err.Error()
			return
		}
		res.Docs = append(res.Docs, got)
	}
}

func main() {
	var texts []string
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&texts); err != nil {
		panic(err)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, text := range texts {
		if err := enc.Encode(read(text)); err != nil {
			panic(err)
		}
	}
}
