use super::*;
use crate::target::Secret;
use crate::vsphere::faults::FaultKind;
use crate::vsphere::fixtures::{enveloped, raw};
use crate::vsphere::requests::{Body, Query, Request, is_xml};
use proptest::prelude::*;
use roxmltree::Document;

const SECRET: &str = "p&<a>\"'s\r\n\tü";

fn known() -> Refs {
    refs(raw!("RetrieveServiceContent")).unwrap()
}

fn faulty(text: &str, detail: &str) -> String {
    enveloped(&format!(
        "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{text}</faultstring>\
         <detail>{detail}</detail></soapenv:Fault>"
    ))
}

fn error(body: &str) -> SoapError {
    let error = nothing(body.as_bytes(), "QueryPerf").unwrap_err();
    assert!(!error.to_string().contains(['\n', '\x1b']), "{error}");
    error
}

/// The kind of a fault.
fn fault(error: SoapError) -> Option<FaultKind> {
    match error {
        SoapError::Fault(Fault { kind, .. }) => Some(kind),
        _ => None,
    }
}

/// What is in the body of a request, with `>` between the names of elements.
fn sent(request: &Request) -> String {
    fn show(node: Node<'_, '_>, to: &mut String) {
        for child in elements(node) {
            assert_eq!(child.tag_name().namespace(), Some(VIM));
            to.extend([" ", child.tag_name().name()]);
            if let Some(kind) = child.attribute("type").or_else(|| kind(child)) {
                to.extend([":", kind]);
            }
            match child.text() {
                Some(text) => to.extend(["=", text]),
                None if child.has_children() => {
                    *to += "(";
                    show(child, to);
                    *to += " )";
                }
                None => {}
            }
        }
    }
    let text = String::from_utf8(request.body.clone()).unwrap();
    let document = Document::parse(&text).unwrap();
    let body = elements(document.root_element()).next().unwrap();
    let call = elements(body).next().unwrap();
    assert!(is(call, VIM, request.method) && is(body, SOAP, "Body"));
    let mut shown = String::new();
    show(call, &mut shown);
    shown.trim().to_owned()
}

#[test]
fn a_call_is_what_the_schema_wants() {
    let refs = known();
    let query = [Query { vm: "vm-1", samples: 3 }, Query { vm: "12", samples: 180 }];
    for (request, method, expected) in [
        (
            Request::service_content(),
            "RetrieveServiceContent",
            "_this:ServiceInstance=ServiceInstance",
        ),
        (
            Request::login(&refs, "VSPHERE.LOCAL\\a&b", &Secret::new("x".to_owned())).unwrap(),
            "Login",
            "_this:SessionManager=SessionManager userName=VSPHERE.LOCAL\\a&b password=x \
             locale=en_US",
        ),
        (Request::logout(&refs), "Logout", "_this:SessionManager=SessionManager"),
        (Request::current_time(), "CurrentTime", "_this:ServiceInstance=ServiceInstance"),
        (
            Request::create_view(&refs, &["VirtualMachine", "HostSystem"]),
            "CreateContainerView",
            "_this:ViewManager=ViewManager container:Folder=group-d1 type=VirtualMachine \
             type=HostSystem recursive=true",
        ),
        (
            Request::perf_counters(&refs),
            "RetrievePropertiesEx",
            "_this:PropertyCollector=propertyCollector specSet( propSet( \
             type=PerformanceManager pathSet=perfCounter ) objectSet( \
             obj:PerformanceManager=PerfMgr ) ) options",
        ),
        (
            Request::view_properties(
                &refs,
                "v",
                &[("VirtualMachine", &["name", "runtime.host"]), ("HostSystem", &["name"])],
                500,
            ),
            "RetrievePropertiesEx",
            "_this:PropertyCollector=propertyCollector specSet( propSet( type=VirtualMachine \
             pathSet=name pathSet=runtime.host ) propSet( type=HostSystem pathSet=name ) \
             objectSet( obj:ContainerView=v skip=true selectSet:TraversalSpec( name=view \
             type=ContainerView path=view skip=false ) ) ) options( maxObjects=500 )",
        ),
        (
            Request::vm_properties(&refs, &["vm-1", "vm-2"], &["layoutEx.disk"]),
            "RetrievePropertiesEx",
            "_this:PropertyCollector=propertyCollector specSet( propSet( type=VirtualMachine \
             pathSet=layoutEx.disk ) objectSet( obj:VirtualMachine=vm-1 ) objectSet( \
             obj:VirtualMachine=vm-2 ) reportMissingObjectsInResults=true ) options",
        ),
        (
            Request::continue_properties(&refs, "<1>"),
            "ContinueRetrievePropertiesEx",
            "_this:PropertyCollector=propertyCollector token=<1>",
        ),
        (
            Request::query_perf(&refs, &query, &[(402, ""), (148, "*")]),
            "QueryPerf",
            "_this:PerformanceManager=PerfMgr querySpec( entity:VirtualMachine=vm-1 maxSample=3 \
             metricId( counterId=402 instance ) metricId( counterId=148 instance=* ) \
             intervalId=20 format=csv ) querySpec( entity:VirtualMachine=12 maxSample=180 \
             metricId( counterId=402 instance ) metricId( counterId=148 instance=* ) \
             intervalId=20 format=csv )",
        ),
    ] {
        assert_eq!(request.method, method);
        assert_eq!(sent(&request), expected);
    }
}

#[test]
fn no_password_is_shown() {
    let login = Request::login(&known(), "u", &Secret::new(SECRET.to_owned())).unwrap();
    assert_eq!(format!("{login:?}"), "Request { method: \"Login\", .. }");
    assert!(sent(&login).contains(&format!("password={SECRET} locale")));
    let quoted = faulty("s3cret", "<XFault xmlns='urn:vim25' xsi:type='InvalidRequest'/>");
    let refused = super::login(quoted.as_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "vSphere refused the call: InvalidRequest");
    assert!(!format!("{refused:?}").contains("s3cret"));
    for (user, password) in [("u", "a\0"), ("u\x1b", "a"), ("u", "\u{ffff}")] {
        assert!(Request::login(&known(), user, &Secret::new(password.to_owned())).is_none());
    }
}

#[test]
fn the_answers_of_vcsim_are_understood() {
    assert_eq!(&*known().full_name, "VMware vCenter Server 6.5.0 build-5973321");
    assert_eq!(login(raw!("Login")), Ok(()));
    assert_eq!(current_time(raw!("CurrentTime")), Ok(1_795_653_418));
    let view = view(raw!("CreateContainerView")).unwrap();
    let expected = "session[2241cb7a-fa09-45bd-93d4-bfe257195aa3]\
                    3e234d5d-240a-4eec-880d-2899e48502d8";
    assert_eq!(&*view, expected);
    assert_eq!(nothing(raw!("Logout"), "Logout"), Ok(()));
    for (body, kind) in [
        (raw!("fault_InvalidLogin"), FaultKind::InvalidLogin),
        (raw!("fault_NotAuthenticated"), FaultKind::NotAuthenticated),
        (raw!("fault_InvalidName"), FaultKind::Other("InvalidName".into())),
        (raw!("fault_MethodNotFound"), FaultKind::Other("MethodNotFound".into())),
        (raw!("fault_InvalidRequest"), FaultKind::Other("InvalidRequest".into())),
    ] {
        assert_eq!(fault(super::view(body).unwrap_err()), Some(kind));
    }
    let said = nothing(raw!("fault_InvalidRequest"), "X").unwrap_err().to_string();
    let expected =
        "vSphere refused the call: InvalidRequest: no vmomi type defined for 'NoSuchMethod'";
    assert_eq!(said, expected);
}

#[test]
fn a_long_answer_is_read_in_pieces() {
    let answered = |row: &str| {
        enveloped(&format!(
            "<QueryPerfResponse xmlns=\"urn:vim25\"><head/>{row}<tail/></QueryPerfResponse>"
        ))
    };
    let read = |row: &str| {
        let (mut texts, mut pieces, mut most) = (Vec::new(), 0, 0);
        answer_in_pieces(answered(row).as_bytes(), "QueryPerfResponse", "a", |response| {
            let found = children(response, "a").filter_map(text).map(str::to_owned);
            let before = texts.len();
            texts.extend(found);
            pieces += 1;
            most = most.max(texts.len() - before);
            assert!(child(response, "head").is_some() && child(response, "tail").is_some());
            Ok(())
        })
        .map(|()| (texts, pieces, most))
    };
    let number = 20_000;
    let row = |between: &str| {
        (0..number).map(|n| format!("<a b='>'>ü{n}</a>")).collect::<Vec<_>>().join(between)
    };
    let texts: Vec<String> = (0..number).map(|n| format!("ü{n}")).collect();
    let (found, pieces, most) = read(&row("")).unwrap();
    assert_eq!(found, texts);
    assert!(pieces > 3 && most < number / 3, "{pieces} of up to {most}");
    // One that cannot be cut safely is read as a whole, and so is a short one.
    for whole in
        [row(" "), row("") + "<!-- </a><a -->", row("") + "<a>5</a>".repeat(300_000).as_str()]
    {
        match read(&whole) {
            Ok((found, pieces, _)) => assert_eq!((found, pieces), (texts.clone(), 1)),
            Err(error) => assert!(matches!(error, SoapError::Unusable(_)), "{error}"),
        }
    }
    assert_eq!(read("<a>1</a><a>2</a>").unwrap(), (vec!["1".into(), "2".into()], 1, 2));
    assert_eq!(read("").unwrap(), (vec![], 1, 0));
    // What is around the row is not read again and again.
    let long = format!("<b>{}</b>", "x".repeat(100_000));
    for around in [long.clone() + &row(""), row("") + &long] {
        let (_, pieces, _) = read(&around).unwrap();
        assert_eq!(pieces, 1);
    }
    // What is wrong in one piece is an error of all.
    let broken = row("").replace("ü19000", "<b>");
    assert!(matches!(read(&broken), Err(SoapError::Unusable(_))));
    let fault = faulty(&"x".repeat(300_000), "<a>1</a><a>2</a>");
    let read = answer_in_pieces(fault.as_bytes(), "QueryPerfResponse", "a", |_| panic!("none"));
    assert!(matches!(read, Err(SoapError::Fault(_))));
}

#[test]
fn pieces_cost_no_more_than_the_whole_may() {
    // The namespaces around the row are compared with the names in each piece.
    let spaces: Vec<_> = (0..4000).map(|n| format!(" xmlns:n{n}=''")).collect();
    let spaces = spaces.concat();
    let row = format!("<a>{}</a>", "x".repeat(1000)).repeat(2000);
    let body = enveloped(&format!(
        "<QueryPerfResponse xmlns=\"urn:vim25\"{spaces}>{row}</QueryPerfResponse>"
    ));
    let whole = answer(body.as_bytes(), "QueryPerfResponse", |_| Ok(()));
    assert!(matches!(whole, Err(SoapError::Unusable(_))));
    let pieces = answer_in_pieces(body.as_bytes(), "QueryPerfResponse", "a", |_| Ok(()));
    assert!(matches!(pieces, Err(SoapError::Unusable(_))));
}

#[test]
fn an_esxi_host_alone_is_understood() {
    let reference = |name, kind, value| format!("<{name} type=\"{kind}\">{value}</{name}>");
    let content = [
        reference("rootFolder", "Folder", "ha-folder-root"),
        reference("propertyCollector", "PropertyCollector", "ha-property-collector"),
        reference("viewManager", "ViewManager", "ViewManager"),
        "<about><name>VMware ESXi</name><fullName>VMware ESXi 7.0.3 build-1</fullName>\
         <version>7.0.3</version><build>1</build><apiType>HostAgent</apiType></about>"
            .to_owned(),
        reference("sessionManager", "SessionManager", "ha-sessionmgr"),
        reference("perfManager", "PerformanceManager", "ha-perfmgr"),
    ];
    let answer = |content: &[String]| {
        enveloped(&format!(
            "<RetrieveServiceContentResponse xmlns=\"urn:vim25\"><returnval>{}</returnval>\
             </RetrieveServiceContentResponse>",
            content.concat()
        ))
    };
    let found = refs(answer(&content).as_bytes()).unwrap();
    assert_eq!(&*found.perf_manager, "ha-perfmgr");
    assert_eq!(&*found.full_name, "VMware ESXi 7.0.3 build-1");
    let missing = SoapError::Unexpected("a reference is missing in it");
    assert_eq!(refs(answer(&content[1..]).as_bytes()), Err(missing));
}

#[test]
fn a_fault_is_of_its_exact_type() {
    let named = |name: &str| Some(name.into());
    for (detail, kind) in [
        (
            "<NoPermissionFault xmlns='urn:vim25' xsi:type='NoPermission'>\
             <object type='Folder'>group-d1</object><privilegeId>System.View</privilegeId>\
             </NoPermissionFault>",
            FaultKind::NoPermission { privilege: named("System.View"), object: named("group-d1") },
        ),
        (
            "<NoPermissionFault xmlns='urn:vim25' xsi:type='NotAuthenticated'/>",
            FaultKind::NotAuthenticated,
        ),
        ("<InvalidLoginFault xmlns='urn:vim25'/>", FaultKind::InvalidLogin),
        ("<a xmlns='urn:vim25' xsi:type='PasswordExpired'/>", FaultKind::InvalidLogin),
        (
            "<v:F xmlns:v='urn:vim25' xmlns:i='http://www.w3.org/2001/XMLSchema-instance' \
             i:type='v:ManagedObjectNotFound'><v:obj type='VirtualMachine'>vm-7</v:obj></v:F>",
            FaultKind::ManagedObjectNotFound(named("vm-7")),
        ),
        (
            "<InvalidArgumentFault xmlns='urn:vim25' xsi:type='InvalidArgument'>\
             <invalidProperty>querySpec.interval</invalidProperty></InvalidArgumentFault>",
            FaultKind::InvalidArgument(named("querySpec.interval")),
        ),
        (
            "<a xmlns='urn:vim25' xsi:type='RestrictedByAdministrator'/>",
            FaultKind::RestrictedByAdministrator,
        ),
        (
            "<a xmlns='urn:vim25' xsi:type='InvalidProperty'><name>x.y</name></a>",
            FaultKind::InvalidProperty(named("x.y")),
        ),
        ("<a xmlns='urn:vim25' type='InvalidLogin'/>", FaultKind::Other("a".into())),
        ("", FaultKind::Other("Fault".into())),
    ] {
        let error = error(&faulty("", detail));
        assert_eq!(fault(error), Some(kind), "{detail}");
    }
    let long = faulty(
        "\nError during parse: XML document element count exceeds configured maximum 500000\n\n\
         while parsing property metricId",
        "<RuntimeFaultFault xmlns='urn:vim25' xsi:type='InvalidRequest'/>",
    );
    assert_eq!(fault(error(&long)), Some(FaultKind::TooManyElements));
}

#[test]
fn what_a_server_says_is_cut_and_escaped() {
    let detail = format!("<a xmlns='urn:vim25' xsi:type='{}ü'/>", "x".repeat(254));
    let error = error(&faulty(&"a\nü".repeat(1000), &detail));
    let SoapError::Fault(Fault { kind: FaultKind::Other(kind), text }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!((kind.len(), text.len()), (254, 254));
}

#[test]
fn what_is_no_answer_is_an_error_that_says_what_it_is() {
    let empty = enveloped("");
    let other = enveloped("<QueryPerfResponse xmlns='urn:other'/>");
    let time = enveloped("<QueryPerfResponse xmlns='urn:vim25'/>");
    for (body, expected) in [
        ("<!DOCTYPE html><html><body>503</body></html>", SoapError::NotSoap),
        ("<html><body><br></body></html>", SoapError::NotSoap),
        ("<envelope/>", SoapError::NotSoap),
        (&empty, SoapError::Unexpected("its body is empty")),
        (&other, SoapError::Unexpected("it answers another one")),
    ] {
        assert_eq!(error(body), expected, "{body}");
    }
    assert_eq!(nothing(time.as_bytes(), "QueryPerf"), Ok(()));
    assert!(view(time.as_bytes()).is_err());
    for body in ["", "Service Unavailable", &empty[..empty.len() - 3], "<a>\u{0}</a>"] {
        assert!(matches!(error(body), SoapError::Unusable(_)), "{body}");
    }
}

#[test]
fn what_would_cost_much_is_refused() {
    let numbered = |count, before, after| {
        let one = |number: u32| format!("{before}{number}{after}");
        (0..count).map(one).collect::<Vec<_>>().concat()
    };
    let attributes = numbered(100_000, " a", "=''");
    let prefixes = numbered(20_000, " xmlns:n", "='u'");
    let response = |inside: &str| {
        enveloped(&format!("<QueryPerfResponse xmlns='urn:vim25'>{inside}</QueryPerfResponse>"))
    };
    let deep = "<a>".repeat(100_000) + &"</a>".repeat(100_000);
    for body in [
        response(&"<a/>".repeat(600_000)),
        response(&"<a>b</a>".repeat(300_000)),
        response(&deep),
        response(&format!("<a{attributes}/>")),
        response(&format!("<a{prefixes}>{}</a>", "<b/>".repeat(100_000))),
        response(&"<a b='='/>".repeat(MAX_ANSWER / 10)),
        " ".repeat(MAX_ANSWER + 1),
    ] {
        assert!(matches!(error(&body), SoapError::Unusable(_)), "{body:.200}");
    }
    let dtd = "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>";
    assert_eq!(error(dtd), SoapError::NotSoap);
    let much = response(&"<a>b</a>".repeat(200_000));
    assert_eq!(nothing(much.as_bytes(), "QueryPerf"), Ok(()));
}

proptest! {
    #[test]
    fn every_text_comes_through(text in "\\PC{0,20}|[\t\r\n<>&'\" a;#x]{0,20}") {
        prop_assume!(text.chars().all(is_xml));
        let request = Request::continue_properties(&known(), &text);
        let body = String::from_utf8(request.body).unwrap();
        let document = Document::parse(&body).unwrap();
        let token = document.descendants().find(|node| node.has_tag_name((VIM, "token")));
        prop_assert_eq!(token.unwrap().text().unwrap_or_default(), &text);
        let mut attribute = Body(String::new());
        attribute.object("a", &text, "");
        let document = Document::parse(&attribute.0).unwrap();
        prop_assert_eq!(document.root_element().attribute("type"), Some(text.as_str()));
    }

    #[test]
    fn what_xml_cannot_hold_harms_nothing(text in any::<String>()) {
        let body = String::from_utf8(Request::continue_properties(&known(), &text).body).unwrap();
        prop_assert!(Document::parse(&body).is_ok());
    }

    #[test]
    fn no_answer_makes_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        inside in "(<(soapenv:Fault|faultstring|detail|returnval|obj|about)( xsi:type='[a-z:]{0,3}')?>\
                   |</(soapenv:Fault|faultstring|detail|returnval)>|[a-zü<>/]{0,3}){0,12}",
    ) {
        let response =
            format!("<CreateContainerViewResponse xmlns='urn:vim25'>{inside}</CreateContainerViewResponse>");
        for body in [bytes, enveloped(&inside).into_bytes(), enveloped(&response).into_bytes()] {
            let _ = (refs(&body), login(&body), current_time(&body), view(&body));
            let _ = nothing(&body, "CreateContainerView");
        }
    }
}
