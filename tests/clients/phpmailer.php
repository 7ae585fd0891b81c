<?php
// Sends one message with Debian's PHPMailer, as WordPress does: SMTP, STARTTLS, AUTH. Prints the message as it was sent.
// Arguments: host port cafile user password kind id sender recipient…
require '/usr/share/php/libphp-phpmailer/autoload.php';

use PHPMailer\PHPMailer\PHPMailer;

[, $host, $port, $cafile, $user, $password, $kind, $id, $sender] = $argv;
$mail = new PHPMailer(true);
$mail->isSMTP();
$mail->Host = $host;
$mail->Port = (int) $port;
$mail->SMTPAuth = true;
$mail->Username = $user;
$mail->Password = $password;
$mail->SMTPSecure = PHPMailer::ENCRYPTION_STARTTLS;
$mail->SMTPOptions = ['ssl' => ['cafile' => $cafile]];
$mail->setFrom($sender, 'Shop');
foreach (array_slice($argv, 9) as $recipient) {
    $mail->addAddress($recipient);
}
$mail->Subject = "$kind by PHPMailer";
$mail->addCustomHeader('X-Case', $id);
$mail->CharSet = 'utf-8';
switch ($kind) {
    case 'text':
        $mail->Body = "Hello.\n.\n..two dots\n";
        break;
    case 'html':
        $mail->isHTML(true);
        $mail->Body = '<p>Hello <b>there</b>.</p>';
        $mail->AltBody = 'Hello there.';
        $mail->addStringAttachment(random_bytes(3000), 'a.bin');
        break;
    case 'eight-bit':
        $mail->Encoding = '8bit';
        $mail->Body = "Grüße, 世界\n";
        break;
    case 'smtputf8':
        // This PHPMailer knows no SMTPUTF8: names and subject in other scripts are what its users send.
        $mail->FromName = 'Jürgen 世界';
        $mail->Subject = 'Grüße 世界';
        $mail->Body = "Grüße\n";
        break;
    case 'long-line':
        // Under base64 PHPMailer leaves long lines to the encoding; its own wrapping is what newsletters rely on.
        $mail->Body = str_repeat('0123456789', 500) . "\n";
        break;
    case 'blank-end':
        $mail->Body = "text\n\n\n\n";
        break;
    case 'space-end':
        $mail->Encoding = '8bit';
        $mail->Body = "text\n \t\n  \n";
        break;
}
$mail->send();
// Its SMTP class sends one more line end than this string has.
fwrite(STDOUT, $mail->getSentMIMEMessage() . "\r\n");
