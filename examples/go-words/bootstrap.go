// A custom runtime in Go with nothing but its standard library. It asks the Lambda Runtime API for an event such as
// {"text": "to be or not to be"} and answers how often each word is in it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

type event struct {
	Text *string `json:"text"`
}

type result struct {
	Words  int            `json:"words"`
	Counts map[string]int `json:"counts"`
}

type failure struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func handle(payload []byte) (result, error) {
	var asked event
	if err := json.Unmarshal(payload, &asked); err != nil {
		return result{}, err
	}
	if asked.Text == nil {
		return result{}, errors.New(`the event needs a "text"`)
	}
	words := strings.Fields(*asked.Text)
	counts := map[string]int{}
	for _, word := range words {
		counts[strings.ToLower(word)]++
	}
	return result{len(words), counts}, nil
}

// next waits for an event; its id and its payload.
func next(api string) (string, []byte, error) {
	answer, err := http.Get(api + "next")
	if err != nil {
		return "", nil, err
	}
	defer answer.Body.Close()
	payload, err := io.ReadAll(answer.Body)
	return answer.Header.Get("Lambda-Runtime-Aws-Request-Id"), payload, err
}

func tell(url string, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	told, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	io.Copy(io.Discard, told.Body) // so that the connection is used again
	return told.Body.Close()
}

func main() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		id, payload, err := next(api)
		if err == nil {
			if found, failed := handle(payload); failed == nil {
				err = tell(api+id+"/response", found)
			} else {
				err = tell(api+id+"/error", failure{"BadEvent", failed.Error()})
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
